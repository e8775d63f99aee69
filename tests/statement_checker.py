"""An independent checker of a study's sentences: it recomputes what each of them asserts.

It reads the study's files as plain data and shares no code with the package: directions, leads,
intervals, votes and the elimination are computed here again, in the most direct way.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from doubt_checker import expected_doubts
from scipy import stats

HIGHER_IS_BETTER = {
    "coord_token_acc",
    "p_gt_mean",
    "ap",
    "f1",
    "f1_50",
    "f1_after",
    "f1_agnostic",
    "f1_agnostic_after",
    "f1_50_agnostic",
    "f1_50_agnostic_after",
    "f1_50_after",
}
# Digits in the names of metrics, variants and runs are no claims.
NAMES = re.compile(
    r"F1@\.5(:\.95)?|p90|W1|\bv\d+( s\d+)?\b|95 % interval|[Ss]tage-?[12]|T = 1|10 %"
)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
SECTIONS = {"evidence": "evidence", "overturn": "would_overturn", "surer": "would_take"}

FEWEST_IMAGES = 10  # with fewer, no lead is resolved


def too_few(interval: dict[str, Any]) -> bool:
    return interval["n_images"] is not None and interval["n_images"] < FEWEST_IMAGES


class Checker:
    """The facts of one study, and what follows from them."""

    def __init__(self, study: Any) -> None:
        self.found = study.recommendation
        self.rule = study.registration["rule"]
        self.comparison, self.probe = study.comparison, study.probe
        self.registration, self.audit, self.runs = study.registration, study.audit, study.runs
        refused = {entry["variant"] for entry in self.found["ineligible"]}
        snapshots = self.comparison["snapshots"]
        rows = snapshots[0]["rows"] if snapshots else []
        self.rows = {r["variant"]: r["values"] for r in rows if r["variant"] not in refused}
        self.controls = set(self.comparison["controls"])
        self.rows = {v: row for v, row in self.rows.items() if v not in self.controls}
        self.signal = self.deciding_signal()
        self.primary = self.found["primary"]["variant"] if self.found["primary"] else None
        self.doubts = {
            f"{run['variant']} s{run['seed']}": expected_doubts(run, self.runs[:i])
            for i, run in enumerate(self.runs)
        }

    def deciding_signal(self) -> str:
        """The rule's metric of the probe, or the one before the fine-tune where that did damage."""
        signal = self.rule["probe"]["signal"]
        damage = any(
            effect["metric"] == "f1_agnostic"
            and effect["change"]["high"] < 0
            and not too_few(effect["change"])
            for effect in self.probe["fine_tune_effects"]
        )
        handed_over = self.probe["handed_over"] is not None  # nothing was fine-tuned
        return signal.removesuffix("_after") if damage or handed_over else signal

    # --- quantities ---

    def sign(self, metric: str) -> int:
        return 1 if metric in HIGHER_IS_BETTER else -1

    def difference(self, first: str, second: str, metric: str) -> tuple[dict[str, Any], int]:
        """The pair's entry, and the sign that turns it into the lead of `first`."""
        for entry in [*self.comparison["differences"], *self.probe["differences"]]:
            if entry["metric"] == metric and {entry["first"], entry["second"]} == {first, second}:
                of_second = -1 if entry["first"] == first else 1
                return entry, of_second * self.sign(metric)
        raise KeyError(f"no difference of {first} and {second} on {metric}")

    def lead(self, first: str, second: str, metric: str) -> float:
        entry, sign = self.difference(first, second, metric)
        return sign * entry["difference"]

    def bounds(self, first: str, second: str, metric: str) -> tuple[float, float]:
        entry, sign = self.difference(first, second, metric)
        interval = entry["interval"]
        low, high = sorted((sign * interval["low"], sign * interval["high"]))
        return low, high

    def margin(self, metric: str) -> float:
        if metric == self.signal:
            return self.rule["probe"]["margin"]
        if metric == "geo_loss_after":
            return self.rule["probe"]["geo_margin"]
        return self.rule["margins"][metric]

    def separation(self, first: str, second: str, metric: str) -> tuple[float, float, float]:
        """Interval with the declared SD between seeds, and p of a lead of at most the margin."""
        entry, sign = self.difference(first, second, metric)
        interval, lead = entry["interval"], sign * entry["difference"]
        variance = interval["se"] ** 2
        df = interval["df"] or (interval["n_images"] - 1 if interval["n_images"] else math.inf)
        sd = self.rule["seed_sd"].get(metric, 0.0)
        if metric == self.signal:
            sd = self.rule["probe"]["seed_sd"]
        if interval["seed_var"] is None and sd:
            extra = 2 * sd**2 / interval["n_seeds"]
            df = (variance + extra) ** 2 / (variance**2 / df + extra**2 / 2.5)
            variance += extra
        se, above = math.sqrt(variance), lead - self.margin(metric)
        half = stats.t.ppf(0.975, df) * se
        if se == 0:
            return lead, lead, 0.0 if above > 0 and not too_few(interval) else 1.0
        p_value = 1.0 if too_few(interval) else min(1.0, 2 * stats.t.sf(above / se, df))
        return lead - half, lead + half, p_value

    def shared(self) -> list[str]:
        return [m for m in self.rule["metrics"] if all(m in row for row in self.rows.values())]

    def winner(self, metric: str) -> str | None:
        values = {v: self.sign(metric) * row[metric] for v, row in self.rows.items()}
        top = [v for v, value in values.items() if value == max(values.values())]
        return top[0] if len(top) == 1 else None

    def place(self, variant: str, metric: str) -> str:
        mine = self.sign(metric) * self.rows[variant][metric]
        others = [self.sign(metric) * r[metric] for v, r in self.rows.items() if v != variant]
        if mine > max(others):
            return "first"
        if mine < min(others):
            return "last"
        return "level with another" if mine in others else "between the others"

    def seeds(self, variant: str) -> set[int]:
        return {run["seed"] for run in self.runs if run["variant"] == variant}

    def needed_seeds(self, first: str, second: str, metric: str) -> float | str:
        """The fewest seeds for an interval of ± margin, by trying each number."""
        entry, _ = self.difference(first, second, metric)
        e, n, margin = entry["interval"], entry["interval"]["n_seeds"], self.margin(metric)
        seed_var, interaction = e["seed_var"], e["interaction_var"] or 0.0
        if seed_var is None:
            seed_var, interaction = 2 * self.flip_sd(first, second, metric) ** 2, 0.0
        alone = max(e["image_var"] - interaction / n, 0.0)
        n_images = e["n_images"] or math.inf
        s = np.arange(3, 1001)
        v_s, v_si = seed_var / s, interaction / s
        v_i = alone + v_si
        total = np.maximum(v_s, v_si) + np.maximum(v_i - v_si, 0)
        typical = v_s * (s - 1) / stats.chi2.ppf(0.5, s - 1)
        spread = typical**2 / (s - 1) + v_i**2 / (n_images - 1)
        spread += v_si**2 / ((s - 1) * (n_images - 1))
        size = np.maximum(typical, v_si) + np.maximum(v_i - v_si, 0)
        df = size**2 / np.where(spread > 0, spread, 1.0)
        df = np.maximum(df, np.minimum(s, n_images) - 1)
        enough = s[stats.t.ppf(0.975, df) * np.sqrt(total) <= margin]
        return float(enough[0]) if len(enough) else "too many"

    def flip_sd(self, first: str, second: str, metric: str) -> float:
        """The SD of one seed at which a repeat of this lead has the SD of the lead itself."""
        n = max(len(self.seeds(first) & self.seeds(second)), 1)
        return abs(self.lead(first, second, metric)) * math.sqrt(n / 2)

    # --- the decision, by brute force ---

    def evidence(self) -> list[str]:
        signal, means = self.signal, self.probe["means"]
        measured = [means[v].get(signal, 0.0) for v in self.rows if v in means]
        rollouts = [signal] if any(measured) and self.rule["probe"]["may_change_roles"] else []
        return rollouts + list(self.rule["metrics"])

    def value(self, variant: str, metric: str) -> float | None:
        if metric == self.signal:
            return self.probe["means"].get(variant, {}).get(metric)
        return self.rows[variant].get(metric)

    def beaten(self, leader: str, rivals: list[str], metric: str) -> set[str]:
        """The rivals that the leader beats beyond the margin, after Holm."""
        leads, p_values = {}, {}
        for rival in rivals:
            try:
                entry, _ = self.difference(leader, rival, metric)
            except KeyError:
                continue
            leads[rival] = self.lead(leader, rival, metric)
            if entry["interval"]:
                p_values[rival] = self.separation(leader, rival, metric)[2]
        out, running = set(), 0.0
        for rank, rival in enumerate(sorted(p_values, key=lambda r: p_values[r])):
            running = max(running, min(1.0, (len(p_values) - rank) * p_values[rival]))
            if running < 0.05 and leads[rival] > self.margin(metric):
                out.add(rival)
        plain = {r for r, x in leads.items() if r not in p_values}
        return out | {r for r in plain if leads[r] > self.margin(metric) * (1 + 1e-9)}

    def left(self) -> set[str]:
        left = list(self.rows)
        for metric in self.evidence():
            values = {v: self.value(v, metric) for v in left}
            known = {v: self.sign(metric) * x for v, x in values.items() if x is not None}
            if len(known) < 2:
                continue
            leaders = [v for v, x in known.items() if x == max(known.values())]
            out: set[str] = set()
            for leader in leaders:
                out |= self.beaten(leader, [v for v in known if v != leader], metric)
            left = [v for v in left if v not in out]
        return set(left)

    def preference(self) -> str:
        """The sentence about the choice among several."""
        order = [v for v in dict.fromkeys(run["variant"] for run in self.runs) if v in self.left()]
        listed = "the first in the study's list"
        times = {}
        for variant in order:
            found = [run["train_cpu_s"] for run in self.runs if run["variant"] == variant]
            if self.rule["prefer"] == "listed" or None in found:
                return listed
            times[variant] = float(np.median(found))
        near = [v for v in order if times[v] <= 1.1 * min(times.values())]
        if near == order:
            return f"{listed}; none of them is over 10 % cheaper to train"
        told = ", ".join(f"{v} {times[v]:.0f} s" for v in order)
        if len(near) > 1:
            return f"{listed} among the cheapest to train (CPU time: {told})"
        return f"the cheapest to train (CPU time: {told})"

    # --- assertions ---

    def quantity(self, a: dict[str, Any]) -> float | str:
        """The quantity that an assertion is about, from the files."""
        what, variant, rival, metric = (a[k] for k in ("quantity", "variant", "rival", "metric"))
        pair = (variant, rival, metric)
        match what:
            case "value":
                return self.rows[variant][metric]
            case "best value":
                return min(row[metric] for row in self.rows.values() if metric in row)
            case "max MAE over best":
                return self.rule["eligible"]["max_mae_over_best"]
            case "lead":
                return self.lead(*pair)
            case "lead low":
                return self.bounds(*pair)[0]
            case "lead high":
                return self.bounds(*pair)[1]
            case "margin":
                return self.margin(metric)
            case "separation low":
                return self.separation(*pair)[0]
            case "separation high":
                return self.separation(*pair)[1]
            case "separation p":
                return self.separation(*pair)[2]
            case "eligible variants":
                return len(self.rows)
            case "left":
                return ",".join(sorted(self.left()))
            case "preference":
                return self.preference()
            case "metrics won":
                return sum(self.winner(m) == variant for m in self.shared())
            case "metrics decided":
                return sum(self.winner(m) is not None for m in self.shared())
            case "metrics resolved":
                resolved = 0
                for name in metric.split(","):
                    interval = self.difference(variant, rival, name)[0]["interval"]
                    if interval and not too_few(interval):
                        resolved += self.bounds(variant, rival, name)[0] > 0
                return resolved
            case "metrics shared":
                return len(self.shared())
            case "place":
                return self.place(variant, metric)
            case _ if what.startswith("places "):
                where = what.removeprefix("places ")
                return sum(self.place(variant, m) == where for m in self.shared())
            case _ if what.startswith("lead at "):
                table = self.comparison["temperatures"][what.removeprefix("lead at ")]
                at = {r["variant"]: r["values"].get(metric, math.nan) for r in table}
                return self.sign(metric) * (at[variant] - at[rival])
            case "flip seed sd":
                return self.flip_sd(*pair)
            case "seeds needed":
                return self.needed_seeds(*pair)
            case "images":
                return self.difference(*pair)[0]["interval"]["n_images"]
            case "fewest images":
                return FEWEST_IMAGES
            case "images needed":
                e = self.difference(*pair)[0]["interval"]
                z = stats.norm.ppf(0.975) / self.margin(metric)
                return math.ceil(e["n_images"] * e["image_var"] * z**2)
            case "seeds of variant":
                return len(self.seeds(variant))
            case "audit difference":
                return next(d for d in self.audit["differences"] if d == a["value"])
            case "post hoc runs":
                late = [r for r in self.registration["runs"] if r["existing"]]
                return ",".join(
                    sorted(f"{r['variant']} s{r['seed']}" for r in late if not r.get("registered"))
                )
            case "doubt":
                return a["value"] if a["value"] in self.doubts[variant] else "no such doubt"
            case "consequence":
                return self.doubts[variant].get(rival, "no such doubt")
            case "limits the grade":
                return "yes" if variant.rpartition(" s")[0] in self.rows else "no"
            case "doubts beyond":
                return len(self.doubts[variant]) - 3
            case "bar of coordinate mass":
                return self.rule["eligible"]["min_coord_mass"]
            case "coordinate mass":
                return "known" if "coord_mass" in self.rows[variant] else "unknown"
            case "bar of text accuracy":
                return self.rule["eligible"]["min_text_token_acc"]
            case "own logs":
                return "yes" if self.is_own(variant) else "no"
            case "decision step":
                return self.comparison["decision_step"]
            case "last evaluation":
                return self.last_evaluations()[variant]
            case "runs that end there":
                return ",".join(sorted(self.ending_at_decision()))
            case "number of runs that end there":
                return len(self.ending_at_decision())
            case "number of runs that go on":
                return len(self.last_evaluations()) - len(self.ending_at_decision())
            case "prompt of run":
                (run,) = (r for r in self.runs if f"{r['variant']} s{r['seed']}" == variant)
                of = {part: run["prompt"][f"{part}_source"] for part in ("template", "system")}
                template = f"the chat template of {of['template']}, "
                system = "no system prompt"
                if run["prompt"]["system"] is not None:
                    system = f"the system prompt of {of['system']}"
                return f"{template}{system} and the user prompt of {run['prompt']['user_source']}"
            case "validation tiles":
                return max(run.get("val_images_tiles") or 0 for run in self.runs)
            case "slope of run":
                return next(
                    p["slope_percent_per_100_steps"]
                    for p in self.comparison["plateau"]
                    if p["run"] == variant and p["metric"] == "expected_bin_mae"
                )
            case _ if what in ("window steps", "window start", "window end"):
                steps = self.comparison["window"]["steps"]
                return {"window steps": len(steps), "window start": steps[0]}.get(what, steps[-1])
            case "steps not led":
                return len(self.other_leaders(metric))
            case "leaders of the other steps":
                return ",".join(sorted({w or "nobody" for w in self.other_leaders(metric)}))
            case "more runs":
                return self.more_seeds() * len(self.rows)
            case "hours of more runs":
                spent = [
                    run["train_wall_s"] + run["eval_wall_s"]
                    for run in self.runs
                    if run["train_wall_s"] is not None and not run["diverged"]
                ]
                n_runs = self.more_seeds() * len(self.rows)
                return n_runs * sum(spent) / len(spent) / 3600
            case "probed without confounds":
                finding = self.found["probe"]
                return 0.0 if finding is None or finding["confounds"] else 1.0
            case "rivals probed":
                signal = self.signal
                return sum(
                    variant in (d["first"], d["second"])
                    and {d["first"], d["second"]} <= set(self.rows)
                    for d in self.probe["differences"]
                    if d["metric"] == signal
                )
            case "logged temperature":
                value = self.comparison["logged_temperatures"][variant]["value"]
                return "unknown" if value is None else value
            case "lacking":
                return ",".join(sorted(v for v, row in self.rows.items() if metric not in row))
            case "not probed":
                return ",".join(sorted(set(self.rows) - set(self.probe["means"])))
            case "probed otherwise":
                runs = {name.rpartition(" s")[0] for name in self.probe["probed_otherwise"]}
                return ",".join(sorted(runs & set(self.rows) - set(self.probe["means"])))
            case "probe value":
                return self.probe["means"][variant][metric]
            case "best probe value":
                return max(m[metric] for m in self.probe["means"].values() if metric in m)
            case "bar of F1":
                return self.rule["eligible"]["min_f1"]
            case "candidates that see":
                return sum(self.sees(v) for v in self.probe["means"])
            case "contribution":
                return self.probe["contributions"][variant]["difference"]
            case "contribution low":
                return self.probe["contributions"][variant]["low"]
            case "contribution high":
                return self.probe["contributions"][variant]["high"]
            case "blind MAE given the box":
                return self.probe["blind"]["mae_given_box"]
            case "blind F1":
                return self.probe["blind"]["f1_50"]
            case _ if what.startswith("fine-tune change"):
                change = next(
                    effect["change"]
                    for effect in self.probe["fine_tune_effects"]
                    if (effect["variant"], effect["metric"]) == (variant, metric)
                )
                bound = what.removeprefix("fine-tune change").strip() or "difference"
                return change[bound]
            case "probe outcome":
                return self.probe_outcome(variant)
            case "smoothness":
                low, high = self.bounds(variant, rival, "geo_loss_after")
                if too_few(self.difference(variant, rival, "geo_loss_after")[0]["interval"]):
                    return "unresolved"
                margin = self.rule["probe"]["geo_margin"]
                return (
                    "confirmed"
                    if low > margin
                    else "overturned"
                    if high <= margin
                    else "unresolved"
                )
            case "published value":
                return self.probe["aggregates"]["variants"][variant][metric]
            case "published lead":
                values = self.probe["aggregates"]["variants"]
                return values[variant][metric] - values[rival][metric]
            case _ if self.probe["handed_over"] is not None:
                return self.of_handed_over(what, variant, metric)
        raise AssertionError(f"unknown quantity {what}")

    def of_handed_over(self, what: str, run: str | None, reason: str | None) -> Any:
        """What is said of rollouts that were handed over; `run` is a name such as `v0 s0`."""
        given = self.probe["handed_over"]
        files, step = given["files"], self.comparison["decision_step"]
        chosen = {
            "handed over": files,
            "rollouts without a step": [f for f in files if f["step"] is None],
            "rollouts of another step": [f for f in files if f["step"] not in (None, step)],
        }
        if what in chosen:
            return ",".join(sorted(f"{f['variant']} s{f['seed']}" for f in chosen[what]))
        match what:
            case "parse rate unknown":
                return ",".join(sorted({f["variant"] for f in files if not f["knows_parsing"]}))
            case "shared images":
                return given["images"]
            case "decision step":
                return step
            case "bar of the parse rate":
                return self.rule["eligible"]["min_parse_rate"]
            case "unused probes":
                return ",".join(sorted(given["unused_probes"]))
        file = next(f for f in files if f"{f['variant']} s{f['seed']}" == run)
        match what:
            case "left out images":
                return file["images"] - given["images"]
            case "objects not taken":
                return file["dropped"][reason] if reason else sum(file["dropped"].values())
            case "step of rollouts":
                return file["step"]
            case "doubt of rollouts":
                (doubt,) = file["doubts"]
                return doubt
        raise AssertionError(f"unknown quantity {what}")

    def is_own(self, variant: str) -> bool:
        """Whether this project trained every run of a variant; these logs have no other sign."""
        return all(run["has_manifest"] for run in self.runs if run["variant"] == variant)

    def last_evaluations(self) -> dict[str, int]:
        """The last evaluation of each run, of those that are compared."""
        found: dict[str, int] = {}
        for row in self.comparison["curves"]:
            name = f"{row['variant']} s{row['seed']}"
            found[name] = max(row["step"], found.get(name, 0))
        return found

    def ending_at_decision(self) -> list[str]:
        step = self.comparison["decision_step"]
        return [run for run, last in self.last_evaluations().items() if last == step]

    def below_text_bar(self) -> set[str]:
        bar = self.rule["eligible"]["min_text_token_acc"]
        rows = self.comparison["snapshots"][0]["rows"] if self.comparison["snapshots"] else []
        return {row["variant"] for row in rows if row["values"]["text_token_acc"] < bar}

    def limited(self) -> bool:
        """Whether a doubt limits the grade to descriptive."""
        grave = any(
            "caps" in doubts.values() and name.rpartition(" s")[0] in self.rows
            for name, doubts in self.doubts.items()
        )
        return grave or any(v in self.below_text_bar() for v in self.rows)

    def sees(self, variant: str) -> bool:
        """A contribution above 0 and an F1 at the bar; what was not measured counts as met."""
        found = self.probe["contributions"].get(variant)
        f1 = self.probe["means"][variant].get("f1_50_agnostic")
        looks = found is None or found["low"] > 0
        return looks and (f1 is None or f1 >= self.rule["eligible"]["min_f1"])

    def other_leaders(self, metric: str) -> list[str | None]:
        """Rivals that led at steps of the window (None: a tie), from the curves."""
        found = []
        for step in self.comparison["window"]["steps"]:
            values: dict[str, list[float]] = {}
            for row in self.comparison["curves"]:
                if row["step"] == step and metric in row["values"]:
                    values.setdefault(row["variant"], []).append(row["values"][metric])
            means = {v: self.sign(metric) * math.fsum(x) / len(x) for v, x in values.items()}
            top = [v for v, x in means.items() if x == max(means.values())]
            leader = top[0] if len(top) == 1 else None
            if leader in {None, *self.rivals_after_rollouts()}:
                found.append(leader)
        return found

    def rivals_after_rollouts(self) -> set[str]:
        """The eligible rivals of the primary that rollouts leave: the metrics decide about them."""
        eliminated = self.found["decision"]["eliminated"]
        out = {entry["variant"] for entry in eliminated if entry["tier"] == "rollouts"}
        return set(self.rows) - out - {self.primary}

    def more_seeds(self) -> float:
        statement = next(s for s in self.found["statements"] if s["section"] == "surer")
        needed = next(a for a in statement["assertions"] if a["quantity"] == "seeds needed")
        here = len(self.seeds(needed["variant"]) & self.seeds(needed["rival"]))
        return float(needed["value"]) - here

    def probe_outcome(self, stage1: str) -> str:
        signal = self.signal
        rivals = [
            v
            for v in self.rows
            if v != stage1
            and any(
                d["metric"] == signal and {d["first"], d["second"]} == {v, stage1}
                for d in self.probe["differences"]
            )
        ]
        if not any(self.value(v, signal) for v in (stage1, *rivals)):
            return "unresolved"
        measured = [v for v in self.rows if self.value(v, signal) is not None]
        top = max(self.value(v, signal) for v in measured)
        for leader in measured:
            others = [v for v in measured if v != leader]
            at_top = self.value(leader, signal) == top
            if at_top and stage1 in self.beaten(leader, others, signal):
                return "overturned"
        return "confirmed" if self.beaten(stage1, rivals, signal) == set(rivals) else "unresolved"

    # --- what must hold ---

    def errors(self) -> list[str]:
        """Every untrue or unbacked statement of the study."""
        found = []
        for statement in self.found["statements"]:
            for assertion in statement["assertions"]:
                if error := self.broken(assertion):
                    found.append(f"{statement['text']!r}: {error}")
            if loose := self.unbacked(statement):
                found.append(f"{statement['text']!r}: nothing backs {loose}")
        return found + self.structure()

    def broken(self, a: dict[str, Any]) -> str | None:
        actual, said = self.quantity(a), a["value"]
        if isinstance(said, str) or isinstance(actual, str):
            holds = actual == said
        elif a["comparison"] == "=":
            holds = math.isclose(actual, said, rel_tol=1e-9, abs_tol=1e-12)
        else:
            holds = {
                ">": actual > said,
                ">=": actual >= said,
                "<": actual < said,
                "<=": actual <= said,
            }[a["comparison"]]
        return None if holds else f"{a} but it is {actual}"

    def unbacked(self, statement: dict[str, Any]) -> list[str]:
        """Numbers of a text that are no assertion's value, at their printed precision."""
        text = statement["text"]
        for a in statement["assertions"]:
            if isinstance(a["value"], str):
                text = text.replace(a["value"], "")
        values = [a["value"] for a in statement["assertions"] if not isinstance(a["value"], str)]
        loose = []
        for number in NUMBER.findall(NAMES.sub("", text)):
            plain = number.replace(",", "")
            printed, digits = abs(float(plain)), plain.partition("e")[0].partition(".")[2]
            step = 10.0 ** -len(digits) * (10.0 ** float(plain.partition("e")[2] or 0))
            if not any(abs(abs(v) - printed) <= step * 0.5000001 for v in values):
                loose.append(number)
        return loose

    def structure(self) -> list[str]:
        """What the sections and the fields of a recommendation promise."""
        found, rec = [], self.found
        said = {s["text"]: s for s in rec["statements"]}
        lists = ("evidence", "would_overturn", "would_take", "caveats")
        if not rec["withheld"]:
            found += [
                f"no statement backs {line!r}"
                for key in lists
                for line in rec[key]
                if line not in said
            ]
        for key in ("primary", "secondary"):
            if rec[key]:
                found += [f"no statement backs {r!r}" for r in rec[key]["reasons"] if r not in said]
        decision = rec["decision"]
        out = {e["variant"] for e in decision["eliminated"]}
        if out | set(decision["left"]) != set(self.rows) or out & set(decision["left"]):
            found.append("eliminated and left are not the eligible variants")
        if set(decision["left"]) != self.left():
            found.append(f"left are {self.left()}, not {decision['left']}")
        if (decision["preference"] is not None) != (len(decision["left"]) > 1):
            found.append("a preference goes with several variants that are left")
        if self.primary and self.primary not in decision["left"]:
            found.append(f"the primary {self.primary} was eliminated")
        found += self.of_primary() + self.of_grade() + self.of_fitness() + self.of_doubts()
        return found + self.of_secondary() + self.of_tied()

    def of_primary(self) -> list[str]:
        """Statements about the primary must be about it, and what overturns it must hurt it."""
        found = []
        for statement in self.found["statements"]:
            if statement["section"] not in ("overturn", "evidence"):
                continue
            for a in statement["assertions"]:
                if a["quantity"] == "lead" and a["variant"] != self.primary:
                    found.append(f"{statement['text']!r} is not about the primary {self.primary}")
                if statement["section"] != "overturn":
                    continue
                if a["quantity"] == "lead" and self.lead(a["variant"], a["rival"], a["metric"]) < 0:
                    found.append(f"{statement['text']!r}: a deficit cannot overturn it")
                # A rival that dropped out on rollouts stays out, whatever the metrics say.
                pair = {a["variant"], a["rival"]} - {self.primary, None}
                of_metrics = a["quantity"] == "lead" or a["quantity"].startswith("lead at ")
                of_metrics = of_metrics and a["metric"] in self.rule["metrics"]
                if of_metrics and not pair <= self.rivals_after_rollouts():
                    found.append(f"{statement['text']!r}: rollouts decided about {pair}")
                if a["quantity"].startswith("lead at ") and a["rival"] != self.primary:
                    found.append(f"{statement['text']!r} does not hurt {self.primary}")
        return found

    def of_doubts(self) -> list[str]:
        """Doubts are in the audit and on the card; text of unknown tokens refuses nobody."""
        found = []
        for entry in self.audit["runs"]:
            name = f"{entry['variant']} s{entry['seed']}"
            doubts = {doubt["text"]: doubt["consequence"] for doubt in entry["doubts"]}
            if doubts != self.doubts[name]:
                found.append(f"{name}: the audit doubts {doubts}, not {self.doubts[name]}")
            named = [
                line for line in self.found["caveats"] if re.match(rf"[^:]*\b{name}\b[^:]*:", line)
            ]
            told = sum(any(text in line for line in named) for text in doubts)
            grave = "caps" in doubts.values() and entry["variant"] in self.rows
            if grave != any("the grade is at most descriptive" in line for line in named):
                found.append(f"{name}: whether it limits the grade is not said")
            if told < min(3, len(doubts)):
                found.append(f"{name}: the card tells {told} of its {len(doubts)} doubts")
        reasons = {entry["variant"]: entry["reasons"] for entry in self.found["ineligible"]}
        for variant in self.below_text_bar() - self.controls:
            refused = any(reason.startswith("text acc") for reason in reasons.get(variant, []))
            if refused != self.is_own(variant):
                found.append(f"{variant}: text accuracy below the bar, refused: {refused}")
        uneven = len(set(self.last_evaluations().values())) > 1 and self.ending_at_decision()
        unchecked = any("coord_mass" not in row for row in self.rows.values())
        if unchecked != any("coord mass is not checked" in line for line in self.found["caveats"]):
            found.append(f"coordinate mass that nobody logged: {unchecked}, or not on the card")
        told = any(line.startswith("compared at step") for line in self.found["caveats"])
        if bool(uneven) != told:
            found.append(f"evaluations after the decision step: {uneven}, on the card: {told}")
        return found

    def of_grade(self) -> list[str]:
        """The grade of the Stage-1 ranking, from its intervals and seeds alone."""
        grade, reason = (self.found["confidence"]["stage1_ranking"][k] for k in ("grade", "reason"))
        probe = self.found["probe"]
        stage1 = probe["stage1_ranking"][0] if probe else self.primary
        rivals = [variant for variant in self.rows if variant != stage1]
        if stage1 is None or not rivals:
            return [] if grade == "descriptive" else [f"{grade} without a ranking"]
        first = self.rule["metrics"][0]
        shared = {v: len(self.seeds(stage1) & self.seeds(v)) for v in rivals}
        intervals = {}
        for rival in rivals:
            try:
                intervals[rival] = self.difference(stage1, rival, first)[0]["interval"]
            except KeyError:
                intervals[rival] = None
        if not all(intervals.values()):
            if grade != "descriptive":
                return [f"{grade}, but a rival has no interval"]
            if "logs only" in reason and 0 in shared.values():
                return [f"{reason!r}, but seeds are disjoint: {shared}"]
            return []
        if self.limited():
            if grade == "descriptive" and "without that" in reason:
                return []
            return [f"{grade} ({reason}), although a run is in doubt"]
        fewest = min(shared.values())
        if fewest < 3:
            told = re.search(r"(one|\d+) seeds?( in common with ([\w, ]+?))?:", reason)
            if grade != "provisional" or told is None:
                return [f"{grade} ({reason}), but a rival shares {fewest} seeds"]
            if told[1] != ("one" if fewest == 1 else str(fewest)):
                return [f"{reason!r}, but the fewest shared seeds are {fewest}"]
            named = set(re.findall(r"\w+", (told[3] or "").replace(" and ", " ")))
            few = {v for v, n in shared.items() if n < 3}
            if named != (set() if len(few) == len(rivals) else few):
                return [f"{reason!r}, but these share too few seeds: {few}"]
            return []
        p_values = sorted((1.0 if too_few(e) else e["p_value"], v) for v, e in intervals.items())
        running, resolved = 0.0, True
        for rank, (p, rival) in enumerate(p_values):
            running = max(running, min(1.0, (len(p_values) - rank) * p))
            resolved &= running < 0.05 and self.lead(stage1, rival, first) > 0
        beyond = all(self.bounds(stage1, v, first)[0] > self.margin(first) for v in rivals)
        earned = "provisional"
        if resolved:
            earned = "conclusive" if beyond and fewest >= 6 else "supported"
        capped = "without that" in reason
        if grade != ("provisional" if capped else earned):
            return [f"{grade} ({reason}), but the intervals give {earned}"]
        return []

    def of_fitness(self) -> list[str]:
        """The grade of Stage-2 fitness: supported only by leads over three common seeds or more."""
        grade, finding = self.found["confidence"]["stage2_fitness"]["grade"], self.found["probe"]
        if grade != "supported":
            return []
        stage1 = finding["stage1_ranking"][0]
        intervals = [
            d["interval"]
            for d in self.probe["differences"]
            if d["metric"] == self.signal and stage1 in (d["first"], d["second"])
            if {d["first"], d["second"]} <= set(self.rows)
        ]
        if not intervals or any(e["seed_var"] is None for e in intervals):
            return [f"{grade}, but a lead of {stage1} does not hold the variance between seeds"]
        return []

    def of_secondary(self) -> list[str]:
        secondary = self.found["secondary"]
        if secondary is None:
            return []
        variant = secondary["variant"]
        name = "entropy" if all("entropy" in row for row in self.rows.values()) else "p_gt_mean"
        sign = 1 if name == "entropy" else -1
        gap = sign * (self.rows[variant][name] - self.rows[self.primary][name])
        if gap <= self.rule["margins"].get(name, 0.0):
            return [f"the secondary {variant} is not smoother beyond the margin"]
        return []

    def of_tied(self) -> list[str]:
        tied = [entry["variant"] for entry in self.found["tied"]]
        if bool(tied) != bool(self.found["withheld"]):
            return ["tied holds candidates of a withheld primary, and nothing else"]
        return []
