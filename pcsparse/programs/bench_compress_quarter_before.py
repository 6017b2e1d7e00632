"""A study of a quarter that begins where another ended: its start is the dense control of the other.

A control is trained for longer than the start beside it: a network that loses nothing to the start may still
lose much to what that can become. Here the control is the start; costs and widths are known.
"""

import json

from pcsparse.errors import FormatError, RangeError
from pcsparse.programs.bench_compress_quarter_study import BEFORE, START, QuarterStudy
from pcsparse.programs.bench_compress_streets import claim_ended, has_ended
from pcsparse.whole_file import write_whole

_MEASURED = ("cost.json", "budget.json", "widths.json")
_TRAINED = ("model.json", "model.safetensors")
_JUDGED = ("held/dense.json", f"held/{START}.json")
_RECORDS = ("study.txt", "trainings.txt")


def take_over(study: QuarterStudy) -> None:
    """Copy what another study has measured, found and trained, once: nothing of it is done anew.

    Args:
        study: `after` is the folder of the other; without one, nothing is done.

    Raises:
        FormatError: the other study is of other streets or another share, or lacks what is taken over; or the
            folder of this one holds other trainings.
        RangeError: the start had not as many epochs as the study says.
    """
    before, dense = study.after, study.out / "dense"
    if before is None or has_ended(dense):
        return
    needed = [*_RECORDS, *_MEASURED, *_JUDGED, *(f"{START}/{name}" for name in _TRAINED)]
    missing = [name for name in needed if not (before / name).is_file()]
    if missing:
        raise FormatError(
            f"{before} lacks {', '.join(missing)}; --after takes the folder of a study whose {START} is "
            "trained and judged: run its own command to the end"
        )
    facts = (before / "study.txt").read_text()
    if facts != study.facts:
        raise FormatError(
            f"{before} holds another study ({facts}; now {study.facts}); give --after one of the same "
            "network, streets and share"
        )
    judged = [json.loads((before / name).read_text()) for name in _JUDGED]
    steps = sum(int(one["steps"]) for one in judged)
    _check_epochs(study, steps)
    study.claim()
    study.claim_trainings()
    write_whole(study.out / BEFORE, (before / "trainings.txt").read_bytes())
    for name in _MEASURED:
        write_whole(study.out / name, (before / name).read_bytes())
    for folder in (dense, study.out / "held"):
        folder.mkdir(exist_ok=True)
    content = json.dumps(judged[-1] | {"steps": steps})
    write_whole(study.out / "held" / "dense.json", content.encode())
    for name in _TRAINED:
        write_whole(dense / name, (before / START / name).read_bytes())
    claim_ended(dense, study.training)


def _check_epochs(study: QuarterStudy, steps: int) -> None:
    """The narrow network is trained for as many steps as the start and the fine-tuning together."""
    towns, asked = study.streets.train, study.training.epochs
    an_epoch = -(-towns.towns * towns.sweeps // study.training.batch_size)
    had = round(steps / an_epoch)
    if had != asked:
        raise RangeError(
            f"the start of {study.after} had {steps} steps, {had} epochs of {an_epoch} steps, and the study "
            f"says {asked}; give --epochs {had}"
        )
