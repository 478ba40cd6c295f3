"""Whole runs of MLPerf Training."""

from __future__ import annotations

import numpy as np
import pytest

from validate.time_to_train import read_runs, summary_lines


def test_steps_first_step_and_evaluations_make_up_a_run() -> None:
    errors = np.array([each.error_fraction for each in read_runs() if each.error_fraction is not None])
    assert len(errors) >= 30
    assert np.abs(errors).max() <= 0.022
    assert np.abs(errors).mean() <= 0.01


def test_a_run_is_put_together_from_its_parts() -> None:
    """Carina on 1,024 GB200: 360 steps of 8.4527 s, a first one of 11.18 s and 144.68 s of evaluations."""
    run = next(each for each in read_runs() if "carina-ngpu1024" in each.id and each.measured_s == 3192.082)
    assert run.composed_s == pytest.approx(360 * 8.4527 + 11.1772 + 144.68)
    assert len(summary_lines(read_runs())) == 2
