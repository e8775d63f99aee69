"""`coordexp list`, `diff` and `clean`: what lies below results, and what refers to what."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from studies import eval_row, write_run, write_study

from coordexp.cli import cleaning
from coordexp.cli.arguments import parse
from coordexp.cli.cleaning import chosen, remove, unused
from coordexp.cli.main import main
from coordexp.cli.overview import overview
from coordexp.cli.verify import verify
from coordexp.data.prepare import DataManifest, SplitFacts
from coordexp.models.base_manifest import BaseManifest, write_base_manifest
from coordexp.storage.files import locked, write_text
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_typed

pytestmark = pytest.mark.usefixtures("in_tmp")

GOOD = eval_row(mae=12, p90=30, acc=0.05, p_gt=0.02, w1=11, entropy=3)
USED, UNUSED = "b" * 64, "c" * 64  # run_manifest's runs were trained from the first


@pytest.fixture
def results() -> Path:
    """A study of two runs, a run of no study, used and unused data and base models."""
    runs = [write_run(v, GOOD, data="results/data/scenes-used") for v in ("mixed", "pure_ce")]
    write_study(runs)
    write_run("mixed", GOOD, seed=7, data="results/data/scenes-used")
    for name in ("used", "unused"):
        write_data(Path(f"results/data/scenes-{name}"))
    for name, sha256 in (("used", USED), ("unused", UNUSED)):
        manifest = BaseManifest(model={}, sha256=sha256, parameters=1, vocabulary=1)
        write_base_manifest(Path(f"results/base/tiny-{name}/base.json"), manifest)
    return Path("results")


def write_data(path: Path) -> None:
    facts = SplitFacts(images=1, objects=1, records_sha256="r" * 64, images_sha256="i" * 64)
    write_typed(path / "data.json", DataManifest(data={}, train=facts, val=facts))


def reasons(results: Path) -> dict[str, str]:
    return {str(entry.path.relative_to(results)): entry.reason for entry in unused(results)}


def test_what_nothing_refers_to_is_unused(results):
    found = reasons(results)
    run = next(results.glob("runs/mixed/s7-*")).relative_to(results)
    assert found == {
        str(run): "a run that no study below results names",
        "data/scenes-unused": "data of no run",
        "base/tiny-unused": "base of no run",
    }


def test_what_a_finished_study_needs_is_never_unused(results):
    for entry in unused(results):
        remove(entry)
    assert reasons(results) == {}
    assert len(list(results.glob("runs/*/*/run.json"))) == 2
    assert (results / "data/scenes-used/data.json").exists()
    assert (results / "base/tiny-used/base.json").exists()


@pytest.mark.parametrize(
    ("file", "verbs"),
    [("logging.jsonl", ["list", "diff"]), ("config.yaml", ["list", "diff", "clean"])],
)
def test_what_changed_since_the_run_finished_is_not_shown(results, file, verbs):
    run, other = (next(results.glob(f"runs/{variant}/s0-*")) for variant in ("mixed", "pure_ce"))
    (run / file).write_text((run / file).read_text().replace("12", "11"))
    words = {"list": ["list"], "diff": ["diff", str(other), str(run)], "clean": ["clean"]}
    for verb in verbs:
        with pytest.raises(SystemExit, match=rf"{run}/{file}: changed or damaged"):
            main(words[verb])


@pytest.mark.parametrize("verb", ["clean", "list"])
def test_a_study_without_registration_is_refused(results, refused, verb):
    (study,) = (path.parent for path in results.glob("*/*/preregistration.json"))
    write_text(study / "runs.json", "{}")
    (study / "preregistration.json").unlink()
    with refused(f"{study}/preregistration.json: missing", "restore it"):
        overview(results)
    with pytest.raises(SystemExit, match=r"preregistration\.json: missing"):
        main([verb])
    assert any(v.fault == "preregistration.json: missing" for v in verify(results))


def test_set_aside_logs_and_left_overs_are_unused(results):
    run = next(results.glob("runs/pure_ce/*"))
    aside = run.with_name(f"{run.name}.aside-1")
    aside.mkdir()
    study = next(results.glob("stage1_ablation/*"))
    for name in (study.name, "00000000"):
        (results / "logs/stage1_ablation" / name).mkdir(parents=True)
    old, young = run / ".logging.jsonl.1.tmp", run / ".run.json.2.tmp"
    for file in (old, young):
        file.write_text("half")
    long_ago = time.time() - cleaning.LEFT_OVER_AFTER_S - 60
    os.utime(old, (long_ago, long_ago))
    found = reasons(results)
    assert found[str(aside.relative_to(results))].startswith("set aside")
    assert "logs/stage1_ablation/00000000" in found
    assert f"logs/stage1_ablation/{study.name}" not in found
    assert str(old.relative_to(results)) in found
    assert str(young.relative_to(results)) not in found


def test_nothing_of_another_program_is_unused(results, tmp_path_factory):
    """As where `--results` names the wrong directory."""
    home = tmp_path_factory.mktemp("home")
    for below in (home, results):
        for name in ("logs/backup/monday", "cache"):
            (below / name).mkdir(parents=True)
        for name in (".editor.tmp", "cache/.page.tmp"):
            (below / name).write_text("another program's")
            os.utime(below / name, (0, 0))
    assert reasons(home) == {}
    assert not [path for path in reasons(results) if path.endswith(".tmp")]


def test_an_unfinished_run_keeps_the_inputs_it_may_use(results):
    run = next(results.glob("runs/mixed/s7-*"))
    (run / "run.json").unlink()  # its configuration says scenes and tiny_qwen3vl
    for path in ("data/scenes-unused", "base/tiny-unused"):
        (results / path).rename(results / path.replace("tiny", "tiny_qwen3vl"))
    found = reasons(results)
    assert set(found) == {str(run.relative_to(results))}


def test_clean_lists_and_removes_only_with_delete(results, capsys):
    main(["clean"])
    assert "`coordexp clean --delete" in capsys.readouterr().out
    assert len(unused(results)) == 3
    main(["clean", "--delete", "results/data"])
    assert "scenes-unused" in capsys.readouterr().out
    assert len(unused(results)) == 2
    main(["clean", "--delete"])
    capsys.readouterr()
    main(["clean"])
    assert capsys.readouterr().out == "results: nothing is unused\n"


def test_clean_refuses_a_path_that_is_used(results, refused):
    with refused("results/data/scenes-used", "coordexp clean"):
        chosen(unused(results), [Path("results/data/scenes-used")])


def test_a_run_that_is_being_trained_is_not_removed(results, refused):
    entry = next(e for e in unused(results) if "s7-" in e.path.name)
    pid = os.fork()
    if pid == 0:  # the kernel's locks are those of a process: another one must hold it
        with locked(entry.path / ".lock", "being trained"):
            (entry.path / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (entry.path / "held").exists():
            time.sleep(0.01)
        with refused(str(entry.path), "process"):
            remove(entry)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert (entry.path / "run.json").exists()


def test_show_takes_the_end_of_a_path(results, refused):
    (study,) = (path.parent for path in results.glob("*/*/preregistration.json"))
    with refused(f"{study}: holds no recommendation"):
        main_raising(["show", study.name])
    with refused("nonsense: neither a run nor a study"):
        main_raising(["show", "nonsense"])


def test_list_names_studies_and_what_they_use(results, capsys):
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    study = next(results.glob("stage1_ablation/*"))
    assert any(str(study) in line and "2 runs" in line and "not decided" in line for line in lines)
    by_hand = next(line for line in lines if "/s7-" in line)
    assert by_hand.endswith("no study")
    assert "step 360, MAE 12.00 bins" in by_hand
    assert next(line for line in lines if "scenes-used" in line).endswith("of 3 runs")


def test_diff_shows_settings_and_figures_that_differ(results, capsys):
    write_run("mixed", eval_row(10, 25, 0.06, 0.03, 9, 2), overrides=("optim.lr=5e-4",))
    first, second = sorted(str(path) for path in results.glob("runs/mixed/s0-*"))
    main(["diff", first, second])
    out = capsys.readouterr().out
    changed = [line.split() for line in out.splitlines() if line.startswith("  optim")]
    assert [row[0] for row in changed] == ["optim.lr"]
    assert sorted(changed[0][1:]) == ["0.0005", "0.001"]
    assert "results at step 360" in out
    mae = next(line.split() for line in out.splitlines() if line.startswith("  MAE"))
    assert sorted(mae[1:]) == ["10", "12"]


def test_diff_of_two_studies_shows_rule_and_runs(results, capsys):
    run = next(results.glob("runs/mixed/s0-*"))
    other = write_study([RunDirectory(run)], rule_changes={"window": 0.25})
    first = next(p for p in results.glob("stage1_ablation/*") if p.name != other.name)
    main(["diff", first.name, other.name])
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if "window" in line] == [
        ["rule.window", "0.5", "0.25"]
    ]
    assert "pure_ce s0" in out
    assert "A: not decided" in out


def test_diff_refuses_what_it_cannot_compare(results, refused):
    run = next(results.glob("runs/mixed/s0-*"))
    study = next(results.glob("stage1_ablation/*"))
    with refused("is a study", "is a run"):
        main_raising(["diff", str(study), str(run)])
    with refused("nowhere", "coordexp list"):
        main_raising(["diff", "nowhere", str(run)])


def main_raising(arguments: list[str]) -> None:
    """A verb without the frame that turns its errors into an exit."""
    args = parse(arguments)
    args.verb(args)


def test_no_results_is_one_line(refused):
    for verb in ("list", "clean", "verify"):
        with refused("results", "no such directory"):
            main_raising([verb])
    Path("results").write_text("a file")
    for verb in ("list", "clean", "verify"):
        with refused("results", "not a directory"):
            main_raising([verb])


def test_an_evaluated_checkpoint_is_no_unfinished_run(results, capsys):
    run = next(results.glob("runs/mixed/s7-*"))
    (run / "run.json").unlink()
    (results / "evaluated").mkdir()
    run.rename(results / "evaluated/release-0badcafe")
    main(["list"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "/release-" in line]
    assert " evaluated " in line
