"""An Optuna study and where it is kept: a database, or a journal in a folder that machines share."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

import optuna
import sqlalchemy.exc
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage, RetryFailedTrialCallback

# Optuna's own loop keeps and heeds the heartbeat of a storage that is one of these; it has no public name for them
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lib.console import UserError
from lib.search import Fingerprint

HEARTBEAT = 20  # seconds between a trial's signs of life
GRACE = 60  # seconds of silence after which its process counts as dead
POLL = 1  # seconds between looks at what other processes do
OPENINGS = 3  # two processes that start at once may both create the tables; the one that fails finds them made
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
FINGERPRINT = "fingerprint"
JOURNAL = ".log"  # how the name of a journal ends
BEGINNING = b'{"op_code"'  # of a journal
BEAT = "heartbeat"


def open_study(
    storage: str, name: str, fingerprint: Fingerprint, first: dict[str, object], warmup: int
) -> optuna.Study:
    """Opens or creates the study of that name.

    A trial is pruned when its best score so far lies below the median of the finished trials' scores at that epoch.

    Args:
        storage: a URL of SQLAlchemy's, or the path of a journal, which ends in .log.
        fingerprint: the trials of a study are comparable.
        first: the parameters of a new study's first trial.
        warmup: epochs in which no trial is pruned.

    Raises:
        UserError: when the storage cannot be opened, or the study has another fingerprint.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_open(storage),
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=warmup + 1),  # steps count from 1
            load_if_exists=True,
        )
    except Exception as error:  # whatever SQLAlchemy, the database's driver and the disk say
        said = str(error).splitlines()[0].rstrip(".")
        wanted = f"a URL such as sqlite:///study.db, or a file such as study{JOURNAL}, that can be opened here"
        raise UserError(f"--storage: {said}; give {wanted}") from None
    if not study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(FINGERPRINT, json.loads(fingerprint.to_json()))
        study.enqueue_trial(first, skip_if_exists=True)
    kept = study.user_attrs.get(FINGERPRINT)
    advice = "give another name with --study"
    if kept is None:
        raise UserError(f"study {name}: holds trials that tune.py did not make; {advice}")
    if reason := fingerprint.conflict(Fingerprint.from_json(json.dumps(kept), f"study {name}", advice)):
        raise UserError(f"study {name}: holds {reason}; {advice}")
    return study


def anywhere(storage: str) -> str:
    """A storage that opens, in words that do not depend on the working folder.

    Raises:
        UserError: it is this process's memory.
    """
    if _is_journal(storage):
        return os.path.abspath(storage)
    url = sqlalchemy.make_url(storage)
    if url.get_backend_name() != "sqlite":
        return storage
    if url.database in (None, "", ":memory:"):
        raise UserError(f"--storage {storage}: no other process sees this one's memory; name a file, or leave it out")
    return url.set(database=os.path.abspath(url.database)).render_as_string(hide_password=False)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues an interrupted trial again, once, with its parameters and its run folder."""
    # One that takes its process with it, as for want of memory, is given up in the end
    again = RetryFailedTrialCallback(max_retry=3)
    if all(again.retry_history(other)[-1:] != [trial.number] for other in study.get_trials(deepcopy=False)):
        again(study, trial)  # else its process was killed right after it had done so itself


class Journal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file, with the heartbeat that it lacks: a trial whose process died would run for ever.

    Signs of life stand in the journal. Machines' clocks may differ, so each process goes by how long, on its own, it
    has seen no new one.
    """

    def __init__(self, path: str):
        if os.path.exists(path):
            with open(path, "rb") as stream:
                beginning = stream.read(len(BEGINNING))
            if beginning not in (b"", BEGINNING):  # Optuna would write to it all the same
                raise ValueError(f"{path} is no journal of Optuna's")
        try:
            super().__init__(JournalFileBackend(path))
        except (AssertionError, KeyError, TypeError, ValueError) as error:  # what its lines may lead to
            raise ValueError(f"{path} is damaged ({error})") from None
        self._seen: dict[int, tuple[object, float]] = {}

    def record_heartbeat(self, trial_id: int) -> None:
        """Writes a sign of life."""
        with suppress(UpdateFinishedTrialError, OSError):  # whoever trains finds out, too
            self.set_trial_system_attr(trial_id, BEAT, time.time())

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        now, before = time.monotonic(), self._seen
        self._seen = {}
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            beat = trial.system_attrs.get(BEAT)
            last, since = before.get(trial._trial_id, (beat, now))
            self._seen[trial._trial_id] = beat, since if beat == last else now
        return [trial for trial, (_, since) in self._seen.items() if now - since > GRACE]

    def get_heartbeat_interval(self) -> int:
        """In seconds."""
        return HEARTBEAT

    def get_failed_trial_callback(self):
        """What happens to a trial whose process died."""
        return retry


def _open(storage: str) -> Journal | RDBStorage:
    return Journal(storage) if _is_journal(storage) else _database(storage)


def _is_journal(storage: str) -> bool:
    return storage.endswith(JOURNAL) and "://" not in storage


def _database(url: str, openings: int = OPENINGS) -> RDBStorage:
    try:
        return RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": GRACE}} if url.startswith("sqlite") else None,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            failed_trial_callback=retry,
        )
    except sqlalchemy.exc.DBAPIError:
        if openings == 1:
            raise
        time.sleep(POLL)
        return _database(url, openings - 1)
