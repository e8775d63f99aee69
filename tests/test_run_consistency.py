"""What the runs of a study must have in common, and eval rows recomputed from their tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies import AGREEMENT, PREFLIGHT, eval_row, token_table, write_run
from synthetic import draws, sound

from coordexp.analysis.audit.audit import audit
from coordexp.analysis.audit.findings import Audit, RunAudit
from coordexp.analysis.audit.validation_set import samples_by_step
from coordexp.storage.files import sha256_file
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import Log
from coordexp.storage.manifest import read_manifest
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.storage.token_tables import write_table
from coordexp.storage.typed import write_typed
from coordexp.study.inputs import RunData


@pytest.fixture(autouse=True)
def here(in_tmp):
    return in_tmp


ROW = eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0)
VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")


def loaded(run: RunDirectory) -> RunData:
    manifest = read_manifest(run)
    assert manifest is not None
    config = read_run_config(run)
    return RunData(manifest.variant, manifest.seed, read_log(run.log), run, manifest, config)


def entry_of(run: RunData) -> RunAudit:
    return audit([run]).runs[0]


def failed(found: Audit) -> dict[str, dict[str, str]]:
    """{variant: {check: detail}} of the checks that failed."""
    return {
        e.variant: {c.name: c.detail for c in e.checks if c.passed is False} for e in found.runs
    }


def three(odd: dict[str, Any] | None = None, n: int = 3) -> list[RunData]:
    """Runs of the variants; the first has these facts in its manifest."""
    return [
        loaded(write_run(v, ROW, tables=True, **(odd or {} if v == VARIANTS[0] else {})))
        for v in VARIANTS[:n]
    ]


ODD = {
    "same data": {"inputs_sha256": {"data": "x" * 64, "base": "b" * 64}},
    "same base model": {"inputs_sha256": {"data": "d" * 64, "base": "x" * 64}},
    "tokens seen": {"tokens_seen": 1001},
    "same training code": {"modules_sha256": {"train.py": "x" * 64}},
    "same versions": {"versions": {"python": "3", "torch": "2.1"}},
}


def test_runs_that_differ_in_nothing_but_the_objective_pass():
    found = audit(three())
    assert not any(failed(found).values())
    assert found.passed == [f"{variant} s0" for variant in VARIANTS]
    judged = {c.name for c in found.runs[0].checks if c.passed}
    assert judged >= {
        *ODD,
        "same precision",
        "same validation set",
        "eval weighting",
        "pre-flight",
        "complete",
        "log as sealed",
    }
    assert found.runs[0].not_checked == []


@pytest.mark.parametrize("name", ODD)
def test_the_majority_decides_who_is_the_odd_one_out(name):
    found = failed(audit(three(ODD[name])))
    assert list(found[VARIANTS[0]]) == [name]
    assert "of 2 of 3 runs" in found[VARIANTS[0]][name]
    assert not found["pure_ce"]
    assert not found["mixed"]


@pytest.mark.parametrize("name", ODD)
def test_of_two_runs_that_differ_both_are_in_question(name):
    found = audit(three(ODD[name], n=2))
    assert found.passed == []
    assert all("no majority" in checks[name] for checks in failed(found).values())


def test_a_difference_is_said_in_a_few_words():
    found = failed(audit(three(ODD["same versions"])))
    assert found[VARIANTS[0]] == {"same versions": "torch 2.1 against 2 of 2 of 3 runs"}


@pytest.mark.parametrize("other", [{"seed": 1}, {"overrides": ("train.images_per_step=8",)}])
def test_runs_of_other_schedules_may_have_seen_other_tokens(other):
    runs = [loaded(write_run(v, ROW)) for v in VARIANTS[:2]] + [
        loaded(write_run("mixed", ROW, tokens_seen=500, **other))
    ]
    assert "tokens seen" not in failed(audit(runs))["mixed"]


def test_precision_comes_from_the_configuration():
    runs = [
        loaded(write_run(v, ROW, overrides=("train.dtype=bfloat16",) if v == "mixed" else ()))
        for v in VARIANTS
    ]
    assert failed(audit(runs)) == {
        "softce_w1_gate": {},
        "pure_ce": {},
        "mixed": {"same precision": "bfloat16 against float32 of 2 of 3 runs"},
    }


@pytest.mark.parametrize(
    ("preflight", "detail"),
    [
        (PREFLIGHT, "gradients to 3.0e-07 (cut otherwise) and 3.0e-07 (reference formula)"),
        ({"relative_difference": 1e-7}, "losses agree to 1.0e-07; gradients were not compared"),
    ],
)
def test_the_audit_says_what_the_preflight_compared(preflight, detail):
    (run,) = audit([loaded(write_run("mixed", ROW, preflight=preflight))]).runs
    (check,) = [check for check in run.checks if check.name == "pre-flight"]
    assert check.passed
    assert detail in check.detail


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"preflight": {}}, "pre-flight"),
        ({"preflight": PREFLIGHT | {"relative_difference": 2e-5}}, "pre-flight"),
        ({"preflight": PREFLIGHT | {"cut": AGREEMENT | {"norm_difference": 2e-5}}}, "pre-flight"),
        (
            {
                "preflight": PREFLIGHT
                | {"reference": AGREEMENT | {"projection_difference": {"vision": 2e-5}}}
            },
            "pre-flight",
        ),
        ({"step": 320}, "complete"),
        ({"max_steps": 720}, "complete"),
        ({"status": "diverged", "reason": "diverged at step 7"}, "complete"),
    ],
)
def test_what_a_manifest_must_say(facts, name):
    found = failed(audit([loaded(write_run("mixed", ROW, **facts))]))["mixed"]
    assert list(found) == [name]


@pytest.mark.parametrize("name", ["config.yaml", "eval/step-000360.parquet"])
@pytest.mark.parametrize("change", ["removed", "changed"])
def test_sealed_file_that_is_gone_or_changed_fails(name, change):
    run = write_run("mixed", ROW, tables=True)
    file = run.path / name
    manifest = read_manifest(run)
    assert manifest is not None
    write_typed(run.manifest, replace(manifest, artifacts={name: sha256_file(file)}))
    data = loaded(run)
    assert "files as sealed" not in failed(audit([data]))["mixed"]
    if change == "removed":
        file.unlink()
    elif name.endswith(".parquet"):
        pd.read_parquet(file)[::-1].to_parquet(file)
    else:
        file.write_bytes(file.read_bytes() + b"\n")
    assert name in failed(audit([data]))["mixed"]["files as sealed"]


def test_a_log_that_stops_early_or_was_changed_since_fails():
    run = write_run("mixed", ROW)
    run.log.write_text("".join(run.log.read_text().splitlines(keepends=True)[:-2]))
    assert set(failed(audit([loaded(run)]))["mixed"]) == {"complete", "log as sealed"}


def test_a_run_directory_under_another_variants_name_is_swapped():
    run = loaded(write_run("mixed", ROW))
    entry = entry_of(replace(run, variant="softce_w1_gate"))
    assert (entry.verdict, entry.why) == (
        "swapped",
        "its configuration is that of mixed, not of softce_w1_gate",
    )


def test_what_only_records_may_differ():
    runs = [
        loaded(write_run(v, ROW, overrides=("train.audit_images=0",) if v == "mixed" else ()))
        for v in VARIANTS
    ]
    assert audit(runs).differences == []


def test_logs_alone_say_once_what_cannot_be_checked():
    found = audit([sound(np.random.default_rng(9), variant) for variant in VARIANTS])
    for entry in found.runs:
        assert [line.partition(":")[0] for line in entry.not_checked] == [
            "no manifest",
            "no token tables",
        ]
        assert {c.name for c in entry.checks} <= {
            "has evaluations",
            "finite",
            "in range",
            "loss adds up",
            "coordinate terms add up",
            "complete",
        }


def test_one_run_alone_is_compared_with_nothing():
    entry = audit([loaded(write_run("mixed", ROW, tables=True))]).runs[0]
    assert entry.passed
    alone = {c.name: c for c in entry.checks if "no other run" in c.detail}
    assert all(c.passed is None for c in alone.values())
    assert {"same data", "tokens seen", "same validation set"} <= set(alone)


def test_a_different_validation_set_is_found_by_its_table(tmp_path):
    """Eight tables of the same tokens with one thing changed in each; three runs draw theirs."""
    directories = [RunDirectory(tmp_path / str(i)) for i in range(9)]
    token_table(directories[0].table(40), ROW)
    table = pd.read_parquet(directories[0].table(40))
    changes = [table[:-1], table.assign(slot=table["slot"].where(table.index > 0, "vertex"))]
    for row in (0, 17):
        for column in ("image_id", "object_index", "gt_bin"):
            changes.append(table.copy())
            changes[-1].loc[len(table) - 1 - row, column] += 1
    for directory, changed in zip(directories[1:], changes, strict=True):
        directory.table(40).parent.mkdir(parents=True)
        # What the model made of the tokens does not matter.
        write_table(changed.assign(expected_bin_t1=0.0), directory.table(40), 1.0, 1.0)

    def drawn(rng: np.random.Generator) -> bool:
        common, odd = rng.choice(9, 2, replace=False)
        which = int(rng.integers(3))
        runs = [
            RunData(v, 0, Log(Path("x")), directories[odd if i == which else common])
            for i, v in enumerate(VARIANTS)
        ]
        found = failed(audit(runs))
        return [v for v in VARIANTS if "same validation set" in found[v]] == [VARIANTS[which]]

    assert all(draws(drawn))


def test_endless_runtime_tells_no_number_of_samples():
    """numpy would warn of it, in a line that nobody asked for."""
    log = Log(Path("logging.jsonl"))
    log.evals[40] = {"runtime": math.inf, "samples_per_second": 3.0}
    log.evals[80] = {"runtime": 2.0, "samples_per_second": 3.0}
    assert list(samples_by_step(log)) == [80]


@pytest.mark.parametrize("decimals", [(4, 3), (2, 2)])
def test_a_different_validation_set_is_found_by_its_size(decimals):
    """Runtime x samples per second, rounded as Hugging Face does; sizes differ by 3 % or more."""

    def logged(rng: np.random.Generator, n_samples: int) -> Log:
        log = Log(Path("logging.jsonl"))
        for step in (40, 80, 120):
            runtime_s = rng.uniform(5, 90)
            timing = {
                "runtime": round(runtime_s, decimals[0]),
                "samples_per_second": round(n_samples / runtime_s, decimals[1]),
            }
            log.train[step], log.evals[step] = {"loss": 1.0}, {"loss": 1.0, **timing}
        return log

    def drawn(rng: np.random.Generator) -> tuple[bool, bool]:
        size, which = int(rng.integers(100, 3000)), int(rng.integers(3))
        other = int(size * (1 + rng.uniform(0.03, 0.5) * rng.choice([-1, 1])))
        same = [RunData(v, 0, logged(rng, size)) for v in VARIANTS]
        odd = [*same[:which], RunData(VARIANTS[which], 0, logged(rng, other)), *same[which + 1 :]]
        accused = [
            v
            for v, checks in failed(audit(odd)).items()
            if "same number of validation samples" in checks
        ]
        return not any(failed(audit(same)).values()), accused == [VARIANTS[which]]

    sound_ones, found = zip(*draws(drawn), strict=True)
    assert all(sound_ones)
    assert all(found)


# --- the weighting of the evaluation ---


def with_table(tmp_path: Path, batch: int = 32, **logged: float) -> RunData:
    """One run with a table of images that hold 1 to 9 tokens, and these values in its eval row."""
    run = RunDirectory(tmp_path / "run")
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(100), rng.integers(1, 10, 100))
    error = rng.exponential(10 * (1 + image % 7)).round(3)
    columns = {
        "image_id": image,
        "object_index": 0,
        "slot": "x1",
        "gt_bin": 100,
        "fit_half": image % 2 == 0,
        "hit": rng.random(len(image)) < 0.3,
        "coord_mass": 0.9,
        "argmax_bin": 0,
        "box_area_px": 1.0,
    }
    table = pd.DataFrame(columns)
    for label in ("t1", "own", "fitted"):
        values = {
            "expected_bin": 100 + error,
            "w1_to_delta": 2 * error,
            "p_gt": 1 / (1 + error),
            "entropy": error / 10,
            "nll": error / 5,
            "crps": error / 2,
        }
        table = table.assign(**{f"{name}_{label}": column for name, column in values.items()})
    run.table(40).parent.mkdir(parents=True)
    write_table(table, run.table(40), 1.0, 1.0)
    row = {
        "coord_token_acc": table["hit"].mean(),
        "coord_diag_fitted_t/expected_bin_mae": error[image % 2 == 1].mean(),
    }
    for prefix in ("coord_diag", "coord_diag_own_t"):
        row |= {
            f"{prefix}/expected_bin_mae": error.mean(),
            f"{prefix}/expected_bin_abs_err_p90": np.quantile(error, 0.9),
            f"{prefix}/w1_to_delta": 2 * error.mean(),
            f"{prefix}/p_gt_mean": (1 / (1 + error)).mean(),
        }
    log = Log(
        Path("logging.jsonl"), train={40: {"loss": 1.0}}, evals={40: {"loss": 1.0, **row, **logged}}
    )
    config = RunConfig({"name": "any"}, seed=0, train={"eval_micro_batch": batch})
    return RunData("any", 0, log, run, None, config)


def image_means(values: pd.Series, by: pd.Series) -> float:
    return float(values.groupby(by).mean().mean())


def test_eval_rows_are_recomputed_from_their_tokens(tmp_path):
    (found,) = [c for c in entry_of(with_table(tmp_path)).checks if c.name == "eval weighting"]
    assert found.passed


def test_a_wrong_weighting_is_diagnosed(tmp_path):
    run = with_table(tmp_path, batch=8)
    table = pd.read_parquet(tmp_path / "run/eval/step-000040.parquet")
    error = (table["expected_bin_t1"] - 100).abs()
    batches = table["image_id"] // 8
    p90 = float(error.groupby(batches).quantile(0.9).mean())
    cases = [
        (
            {"coord_diag/expected_bin_mae": image_means(error, table["image_id"])},
            ": it is the mean of per-image means",
        ),
        (
            {"coord_diag/p_gt_mean": image_means(table["p_gt_t1"], batches)},
            ": it is the mean of means of batches",
        ),
        (
            {"coord_diag/expected_bin_abs_err_p90": p90},
            ": it is the mean of 90 % quantiles of batches",
        ),
        (
            {"coord_token_acc": image_means(table["hit"], table["image_id"])},
            ": it is the mean of per-image means",
        ),
        ({"coord_diag_own_t/w1_to_delta": 3.0}, f"is 3, its tokens give {2 * error.mean():.6g}"),
        (
            {"coord_diag_fitted_t/expected_bin_mae": float(error.mean())},
            "coord_diag_fitted_t/expected_bin_mae at step 40",
        ),
    ]
    for changed, says in cases:
        log = replace(run.log, evals={40: run.log.evals[40] | changed})
        (check,) = [c for c in entry_of(replace(run, log=log)).checks if c.name == "eval weighting"]
        assert check.passed is False
        assert says in check.detail
        assert f"eval_{next(iter(changed))} at step 40" in check.detail


def test_batches_are_those_of_each_process(tmp_path):
    """Two processes take every second image each."""
    run = replace(
        with_table(tmp_path, batch=8), manifest=read_manifest(write_run("mixed", ROW, processes=2))
    )
    table = pd.read_parquet(tmp_path / "run/eval/step-000040.parquet")
    batches = table["image_id"].map(
        {image: (rank, i // 8) for rank in (0, 1) for i, image in enumerate(range(rank, 100, 2))}
    )
    mean = image_means((table["expected_bin_t1"] - 100).abs(), batches)
    run.log.evals[40]["coord_diag/expected_bin_mae"] = mean
    (found,) = [c for c in entry_of(run).checks if c.name == "eval weighting"]
    assert "it is the mean of means of batches" in found.detail


def test_a_nearly_equal_number_is_not_equal(tmp_path):
    run = with_table(tmp_path)
    key = "coord_diag/expected_bin_mae"
    for relative, passed in ((3e-6, True), (3e-5, False)):
        log = replace(
            run.log, evals={40: run.log.evals[40] | {key: run.log.evals[40][key] * (1 + relative)}}
        )
        (found,) = [c for c in entry_of(replace(run, log=log)).checks if c.name == "eval weighting"]
        assert found.passed is passed
