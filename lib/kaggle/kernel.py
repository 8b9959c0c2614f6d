"""A kernel folder: the project's scripts in one file that trains on Kaggle, and the metadata that the upload needs.

`kaggle kernels push` sends the text of one file and nothing else, so the code travels inside it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lib.commit import commit
from lib.config import Config, Share
from lib.console import UserError
from lib.experiments import make_config
from lib.files import replacing
from lib.kaggle import packing
from lib.locks import locked
from lib.records import Count, Positive
from lib.schema import Record, option

METADATA, PUSHED = "kernel-metadata.json", "pushed.json"
LONGEST_TITLE = 50  # Kaggle's limit
GPU_PRECISION = "precision=mixed_float16"  # a T4 has no bfloat16
LIMIT = 12.0  # hours after which Kaggle ends a session
HOURS = 11.5  # after which a kernel ends itself
GRACE = 0.4  # hours after that for Kaggle to end one that does not
Hours = Annotated[float, Field(gt=0, le=LIMIT - GRACE)]
_FILLED_IN = re.compile('^BUNDLE = "([0-9a-f]+)"$.*?^PAYLOAD = """(.*?)"""$', re.MULTILINE | re.DOTALL)


def add_job_options(parser) -> None:
    """Adds the options of `Job.asked` to an argparse parser, spelled as train.py spells them."""
    parser.add_argument(
        "--fold", default="all", help="folds such as 0 or 0,2, all (default), or none: train on every tile"
    )
    parser.add_argument("--tiny", action="store_true", help="fewer filters and epochs")
    settings = f"change config fields; {GPU_PRECISION} comes first"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=settings)
    parser.add_argument("--cpu", action="store_true", help="train without a GPU, which takes no quota and many hours")
    hours = f"the kernel ends itself after so many hours and can be gone on with (default: {HOURS})"
    parser.add_argument("--hours", type=option(Hours), metavar="H", help=hours)


class Job(Record):
    """What a kernel is asked to do: `train.py EXPERIMENT [--tiny] --set SETTINGS`, for each of the folds.

    `hours` after which it ends itself, None: never; `cpu`: without a GPU.
    """

    experiment: str
    tiny: bool
    settings: tuple[str, ...]
    folds: tuple[Count | None, ...] = Field(min_length=1)
    hours: Hours | None = None
    cpu: bool = False

    @classmethod
    def asked(
        cls,
        experiment: str,
        fold: str,
        tiny: bool,
        settings: Sequence[str],
        cpu: bool = False,
        hours: float | None = HOURS,
    ) -> Job:
        """The job of a command line, with the T4's precision unless it names another.

        Raises UserError for an unknown experiment, setting or fold, before anything is uploaded.
        """
        settings = (*([] if cpu else [GPU_PRECISION]), *settings)
        config = make_config(experiment, tiny).override(list(settings))
        if config.semi == "pseudo":
            raise UserError(f"{experiment}: learns from runs of {config.teacher}, which a kernel has not; use train.py")
        folds = config.chosen_folds(fold)
        return cls(experiment=experiment, tiny=tiny, settings=settings, folds=folds, hours=hours, cpu=cpu)

    @property
    def config(self) -> Config:
        """The configuration that train.py makes of this job."""
        return make_config(self.experiment, self.tiny).override(list(self.settings))

    @property
    def title(self) -> str:
        """The kernel's title. A kernel trains an experiment or a part of its folds; a repeat is its next version."""
        if self.folds == tuple(range(self.config.folds)):
            return f"mars {self.config.experiment} all folds"
        folds = ["none" if fold is None else str(fold) for fold in self.folds]
        return " ".join(["mars", self.config.experiment, "fold" if len(folds) == 1 else "folds", *folds])

    def split(self, kernels: int) -> list[Job]:
        """This job as that many, with the folds dealt out; at least one fold each."""
        parts = min(kernels, len(self.folds))
        return [self.model_copy(update={"folds": self.folds[part::parts]}) for part in range(parts)]


class Manifest(Record):
    """What kernels/entry.py says of its output: the build, its job and config, the score, and the files' SHA-256.

    `complete`: whether all folds, masks and the submission are there. Until then it is written after each fold, so
    that of a session which was cut off something is known.
    """

    bundle: str
    job: Job
    config: Config | None = None
    score: Share | None = None
    seconds: Count
    files: dict[str, str]
    complete: bool = True


class _Payload(Record):
    """What a built kernel carries: its job, the text of each script, the commit, and whether it goes on with the
    output of the version before, which is then mounted.
    """

    job: Job
    files: dict[str, str]
    commit: str | None = None
    continues: bool = False


class Pushed(Record):
    """pushed.json beside a built kernel: the version that it became, and its address."""

    version: Positive
    url: str


@dataclass(frozen=True)
class Kernel:
    """A built folder: its name on Kaggle (user/slug), the hash of its code and job, the job, and the version that it
    became; None where it was not pushed, or by an older version of this script.
    """

    folder: Path
    name: str
    bundle: str
    job: Job
    version: int | None = None

    @classmethod
    def build(cls, job: Job, user: str, folder: Path, continues: bool = False) -> Kernel:
        """Writes the folder. Equal code and job give equal bytes.

        `continues`: with the output of this kernel's version before.

        Raises UserError outside a git checkout: only tracked files are packed, so that no key, data or run ever is.
        """
        slug = slug_of(job)
        metadata = json.loads((packing.ROOT / "kernels" / METADATA).read_text())
        metadata |= {"id": f"{user}/{slug}", "title": job.title}
        if job.cpu:
            metadata |= {"enable_gpu": False, "machine_shape": None}
        if continues:
            metadata |= {"kernel_sources": [metadata["id"]]}
        bundle, script = _script(job, continues)
        with locked(folder, wait=True):  # or one process's code might lie beside another's metadata
            (folder / PUSHED).unlink(missing_ok=True)
            with replacing(folder / metadata["code_file"], encoding="utf-8") as stream:
                stream.write(script)
            with replacing(folder / METADATA) as stream:
                json.dump(metadata, stream, indent=1)
        return cls(folder, metadata["id"], bundle, job)

    @classmethod
    def build_new(cls, job: Job, user: str, parent: Path, continues: bool = False) -> Kernel:
        """As `build`, into a new folder below `parent`: what was built before stays as it is."""
        slug = slug_of(job)
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (slug if number == 1 else f"{slug}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
            try:
                return cls.build(job, user, folder, continues)
            except BaseException:
                shutil.rmtree(folder)
                raise

    @classmethod
    def read(cls, folder: Path) -> Kernel:
        """The kernel that was built in a folder. Raises UserError where none was."""
        advice = "name a folder that kernels/bundle.py wrote"
        try:
            metadata = json.loads((folder / METADATA).read_text())
            name, path = metadata["id"], folder / metadata["code_file"]
            _, bundle, payload, _ = _FILLED_IN.split(path.read_text(encoding="utf-8"))
            text = gzip.decompress(base64.b64decode(payload))
            if not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
                raise ValueError(name)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error):
            raise UserError(f"{folder}: no built kernel; {advice}") from None
        job = _Payload.from_json(text, path, advice).job
        pushed = folder / PUSHED
        advice = "delete it, and the version is looked for on Kaggle"
        return cls(folder, name, bundle, job, Pushed.read(pushed, advice).version if pushed.exists() else None)

    @property
    def mark(self) -> str:
        """The line of its code that no other kernel has."""
        return f'BUNDLE = "{self.bundle}"'

    def pinned(self, version: int, url: str) -> Kernel:
        """This kernel as that version, noted in its folder."""
        with replacing(self.folder / PUSHED) as stream:
            stream.write(Pushed(version=version, url=url).to_json())
        return replace(self, version=version)


def slug_of(job: Job) -> str:
    """The kernel's part of its address. Raises UserError where its title would be too long for Kaggle."""
    if len(job.title) > LONGEST_TITLE:
        raise UserError(f"'{job.title}': longer than the {LONGEST_TITLE} characters of a title; use more --kernels")
    return re.sub("[^a-z0-9]+", "-", job.title.lower()).strip("-")


def _script(job: Job, continues: bool) -> tuple[str, str]:
    """The hash of code and job, and kernels/entry.py with both filled in."""
    files, version = packing.scripts(), commit(packing.ROOT)
    carried = {"job": job.model_dump(), "files": files, "commit": version, "continues": continues}
    payload = json.dumps(carried, sort_keys=True)
    entry = (packing.ROOT / "kernels" / "entry.py").read_text()
    bundle = hashlib.sha256((entry + payload).encode()).hexdigest()[:16]
    # Left to itself gzip notes the time, and no two bundles would be the same
    packed = base64.b64encode(gzip.compress(payload.encode(), mtime=0)).decode()
    lines = "\n".join(textwrap.wrap(packed, 120))
    script = entry.replace('BUNDLE = ""', f'BUNDLE = "{bundle}"')
    return bundle, script.replace('PAYLOAD = ""', f'PAYLOAD = """\n{lines}\n"""')
