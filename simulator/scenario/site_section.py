"""A site correction: a small file of runs measured on one site, beside what was predicted for each."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from math import log
from pathlib import Path

from hardware.documents import read_document
from hardware.sections import Section
from simulator.fields import Setting, read_fields, setting


@dataclass(frozen=True, slots=True)
class SiteRun:
    """One run on the site: its steady step, and the step predicted for it without a correction."""

    measured_s: float = setting(MISSING, Setting("The steady step that the run's log shows.", "5.1 s"))
    predicted_s: float = setting(MISSING, Setting("The step predicted without a correction.", "4.9 s"))
    scenario: str = setting("", Setting("The scenario that was run.", "kimi-k2-256"))
    gpus: int = setting(1, Setting("GPUs of the run.", 256))
    steps: int = setting(1, Setting("Steady steps behind the figure.", 100))

    @property
    def log_error(self) -> float:
        """log(measured / predicted)."""
        return log(self.measured_s / self.predicted_s)


@dataclass(frozen=True, slots=True)
class Site:
    """The runs of a site correction; `file` is where they were read."""

    file: str
    runs: tuple[SiteRun, ...]

    @property
    def log_error(self) -> float:
        """Mean of log(measured / predicted) over the runs."""
        return sum(run.log_error for run in self.runs) / len(self.runs)


def read_site(path: str | Path) -> Site:
    """The site correction in a file. Raises InputError with every problem of it."""
    document = read_document(path)
    top = Section(document.data, document.place)
    runs = [read_fields(SiteRun, section) for section in top.sections("runs")]
    if not runs and not top.problems:
        top.report("runs", "holds no run; 'traincast explain SCENARIO --log LOG --fit FILE' adds one")
    top.done()
    top.raise_problems()
    return Site(str(path), tuple(runs))


def site_file(name: str, file: str) -> Path:
    """A site correction named in a scenario file: beside the file, or else from where one works."""
    beside = Path(file).parent / name
    return (beside if beside.is_file() else Path(name)).resolve()


def read_site_key(section: Section) -> Site | None:
    """The correction that `hardware.site` names, if it does."""
    name = section.text("site", None)
    if name is None:
        return None
    return read_site(site_file(name, section.place.file))
