"""A kernel folder: the project's scripts in one file that trains on Kaggle, and the metadata that the upload needs.

`kaggle kernels push` sends the text of one file and nothing else, so the code travels inside it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from lib.config import Config, Share
from lib.console import UserError
from lib.experiments import make_config
from lib.files import replacing
from lib.locks import locked
from lib.records import Count
from lib.schema import Record

ROOT = Path(__file__).resolve().parent.parent.parent
METADATA = "kernel-metadata.json"
LONGEST_TITLE = 50  # Kaggle's limit
GPU_PRECISION = "precision=mixed_float16"  # a T4 has no bfloat16
_FILLED_IN = re.compile('^BUNDLE = "([0-9a-f]+)"$.*?^PAYLOAD = """(.*?)"""$', re.MULTILINE | re.DOTALL)


def add_job_options(parser) -> None:
    """Adds the options of `Job.asked` to an argparse parser, spelled as train.py spells them."""
    parser.add_argument("--fold", default="all", help="a fold's number, all (default), or none: train on every tile")
    parser.add_argument("--tiny", action="store_true", help="fewer filters and epochs")
    settings = f"change config fields; {GPU_PRECISION} comes first"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=settings)


class Job(Record):
    """What a kernel is asked to do: `train.py EXPERIMENT [--tiny] --set SETTINGS`, for each of the folds."""

    experiment: str
    tiny: bool
    settings: tuple[str, ...]
    folds: tuple[Count | None, ...] = Field(min_length=1)

    @classmethod
    def asked(cls, experiment: str, fold: str, tiny: bool, settings: Sequence[str]) -> Job:
        """The job of a command line, with the T4's precision unless it names another.

        Raises UserError for an unknown experiment, setting or fold, before anything is uploaded.
        """
        settings = (GPU_PRECISION, *settings)
        config = make_config(experiment, tiny).override(list(settings))
        if config.semi != "none":
            raise UserError(f"{experiment}: learns from runs of {config.teacher}, which a kernel has not; use train.py")
        folds = config.chosen_folds(fold)
        return cls(experiment=experiment, tiny=tiny, settings=settings, folds=folds)

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
    """What kernels/entry.py says of its output: the build, its job and config, the score, and the files' SHA-256."""

    bundle: str
    job: Job
    config: Config
    score: Share | None
    seconds: Count
    files: dict[str, str]


class _Payload(Record):
    """What a built kernel carries: its job, and the text of each script."""

    job: Job
    files: dict[str, str]


@dataclass(frozen=True)
class Kernel:
    """A built folder: its name on Kaggle (user/slug), the hash of its code and job, and the job."""

    folder: Path
    name: str
    bundle: str
    job: Job

    @classmethod
    def build(cls, job: Job, user: str, folder: Path) -> Kernel:
        """Writes the folder. Equal code and job give equal bytes.

        Raises UserError outside a git checkout: only tracked files are packed, so that no key, data or run ever is.
        """
        if len(job.title) > LONGEST_TITLE:
            raise UserError(f"'{job.title}': longer than the {LONGEST_TITLE} characters of a title; use more --kernels")
        slug = re.sub("[^a-z0-9]+", "-", job.title.lower()).strip("-")
        metadata = json.loads((ROOT / "kernels" / METADATA).read_text())
        metadata |= {"id": f"{user}/{slug}", "title": job.title}
        bundle, script = _script(job)
        with locked(folder, wait=True):  # or one process's code might lie beside another's metadata
            with replacing(folder / metadata["code_file"]) as stream:
                stream.write(script)
            with replacing(folder / METADATA) as stream:
                json.dump(metadata, stream, indent=1)
        return cls(folder, metadata["id"], bundle, job)

    @classmethod
    def read(cls, folder: Path) -> Kernel:
        """The kernel that was built in a folder. Raises UserError where none was."""
        advice = "name a folder that kernels/bundle.py wrote"
        try:
            metadata = json.loads((folder / METADATA).read_text())
            name, path = metadata["id"], folder / metadata["code_file"]
            _, bundle, payload, _ = _FILLED_IN.split(path.read_text())
            text = gzip.decompress(base64.b64decode(payload))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error):
            raise UserError(f"{folder}: no built kernel; {advice}") from None
        return cls(folder, name, bundle, _Payload.from_json(text, path, advice).job)


def _script(job: Job) -> tuple[str, str]:
    """The hash of code and job, and kernels/entry.py with both filled in."""
    files = {name: (ROOT / name).read_text() for name in _tracked()}
    payload = json.dumps({"job": job.model_dump(), "files": files}, sort_keys=True)
    entry = (ROOT / "kernels" / "entry.py").read_text()
    bundle = hashlib.sha256((entry + payload).encode()).hexdigest()[:16]
    # Left to itself gzip notes the time, and no two bundles would be the same
    packed = base64.b64encode(gzip.compress(payload.encode(), mtime=0)).decode()
    lines = "\n".join(textwrap.wrap(packed, 120))
    script = entry.replace('BUNDLE = ""', f'BUNDLE = "{bundle}"')
    return bundle, script.replace('PAYLOAD = ""', f'PAYLOAD = """\n{lines}\n"""')


def _tracked() -> list[str]:
    """The scripts and lib/, sorted, as git knows them."""
    git = ["git", "-C", str(ROOT), "ls-files", "--", ":(glob)*.py", ":(glob)lib/**/*.py"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split()
    except FileNotFoundError:
        raise UserError("git: not found, and only the files that it tracks are packed; install it") from None
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"{ROOT}: git lists no tracked files, and only those are packed; work in a clone") from None
    return sorted(name for name in listed if (ROOT / name).exists())
