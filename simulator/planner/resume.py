"""Finished chunks of a search as files, so that a search that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware.problems import Place
from hardware.sections import Section
from simulator.fields import as_written, read_fields
from simulator.planner.search import Chunk, ChunkResult, Played
from simulator.plans.spec import Plan
from simulator.scenario.resolved import scenario_yaml

FOLDER = "chunks"


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """The files of one search in a folder (None: none are kept). `question` stands for all that decides its results."""

    folder: Path | None
    question: str
    base: Plan | None

    @classmethod
    def of(cls, folder: Path | None, chunks: Sequence[Chunk]) -> ChunkFiles:
        """The files of these chunks; those of another search are not read."""
        if folder is None or not chunks:
            return cls(None, "", None)
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        space, asked = chunks[0].space, chunks[0].asked
        asked_for = repr((sorted(space.candidates.items()), asked, len(chunks)))
        question = hashlib.sha256((scenario_yaml(space.scenario) + asked_for).encode()).hexdigest()
        return cls(folder / FOLDER, question, space.base)

    def read(self, chunk: Chunk) -> ChunkResult | None:
        """A chunk's result, where its file belongs to this search."""
        if self.folder is None or self.base is None:
            return None
        try:
            data = json.loads(self._file(chunk.number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(data, dict) or data.get("question") != self.question:
            return None
        return ChunkResult(
            number=chunk.number,
            legal=int(data["legal"]),
            fitting=int(data["fitting"]),
            played=int(data["played"]),
            best=tuple(read_played(each, self.base) for each in data["best"]),
            least=read_played(data["least"], self.base) if data["least"] else None,
        )

    def write(self, result: ChunkResult) -> None:
        """Leaves a chunk's result: aside first, then under its name, so that no half of a file is ever read."""
        if self.folder is None:
            return
        data = {
            "question": self.question,
            "legal": result.legal,
            "fitting": result.fitting,
            "played": result.played,
            "best": [written_played(each) for each in result.best],
            "least": written_played(result.least) if result.least else None,
        }
        file = self._file(result.number)
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(data), encoding="utf-8")
        aside.replace(file)

    def _file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number:05d}.json"


def written_played(played: Played) -> dict[str, Any]:
    plan = as_written(played.plan)
    del plan["stack"]
    return {
        "plan": plan,
        "step_time_s": played.step_time_s,
        "device_bytes": played.device_bytes,
        "peak_bytes": played.peak_bytes,
        "contests": list(played.contests),
    }


def read_played(data: dict[str, Any], base: Plan) -> Played:
    section = Section(data["plan"], Place("a chunk's file"))
    plan = read_fields(Plan, section, known={"stack": base.stack})
    section.raise_problems()
    return Played(
        plan,
        float(data["step_time_s"]),
        float(data["device_bytes"]),
        float(data["peak_bytes"]),
        tuple(data["contests"]),
    )
