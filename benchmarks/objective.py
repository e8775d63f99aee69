"""The objective against the usual ways to compute it: time, peak memory and error.

    python benchmarks/objective.py                               # CPU, one thread: d 256, V
    152,670, N 512 of S 1536 python benchmarks/objective.py --device cuda --hidden 2560 --rows 4096
    --positions 12288 --dtype bfloat16

Ways are interleaved, a round at a time; medians over the rounds. Times are told as ratios to the
fused objective of the same variant, memory is the peak beyond the inputs (gradients included).
`--write` puts the tables into docs/performance.md and draws docs/objective.svg.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from calibration import table, write_between
from torch import Tensor

from coordexp.config.compose import compose
from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses import fused, products, reference
from coordexp.losses.terms import total_loss
from coordexp.report.svg import box, picture, text

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
VARIANTS = {"A": "softce_w1_gate", "B": "pure_ce", "C": "mixed"}
CHUNKS = (64, 128, 256, 512, 1024)  # tried for torch's own chunked cross-entropy
FLAT_ROWS = (256, 512, 1024, 2048, 4096, 8192)
PUBLISHED = "full logits, every position (as published)"
ROWS = "full logits, supervised rows"


@dataclass(frozen=True)
class Problem:
    """S positions of which N are supervised, half of them coordinates."""

    every: Tensor  # [S, d]
    weight: Tensor  # [V, d]
    supervised: Tensor  # [N] positions
    targets: Tensor  # [N]
    bins: Tensor  # [N], -1 on text
    coord_ids: Tensor  # [K]

    @property
    def denominators(self) -> Tensor:
        return torch.tensor(
            [(self.bins < 0).sum(), (self.bins >= 0).sum()],
            dtype=torch.float32,
            device=self.bins.device,
        )

    def to(self, dtype: torch.dtype) -> Problem:
        every, weight = self.every.detach().to(dtype), self.weight.detach().to(dtype)
        return Problem(
            every.requires_grad_(),
            weight.requires_grad_(),
            self.supervised,
            self.targets,
            self.bins,
            self.coord_ids,
        )


def make_problem(
    d: int, vocabulary: int, n: int, s: int, dtype: torch.dtype, device: str
) -> Problem:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, d, generator=g) * 0.02
    every = torch.randn(s, d, generator=g) * 4
    ids = torch.arange(vocabulary - N_BINS, vocabulary)
    bins = torch.where(torch.arange(n) % 2 == 0, torch.randint(0, N_BINS, (n,), generator=g), -1)
    targets = torch.where(
        bins >= 0, ids[bins], torch.randint(0, vocabulary - N_BINS, (n,), generator=g)
    )
    at = torch.randperm(s, generator=g)[:n].sort().values
    tensors = [x.to(device) for x in (every.to(dtype), weight.to(dtype), at, targets, bins, ids)]
    return Problem(tensors[0].requires_grad_(), tensors[1].requires_grad_(), *tensors[2:])


def of_fused(p: Problem, v: VariantConfig) -> Tensor:
    return fused.objective(
        p.every[p.supervised], p.weight, p.targets, p.bins, p.coord_ids, v, p.denominators
    ).loss


def of_rows(p: Problem, v: VariantConfig) -> Tensor:
    """Full logits of the supervised rows, diagnostics left out."""
    on_coord = p.bins >= 0
    return loss_of_rows(
        p.every[p.supervised],
        p.weight,
        p.targets,
        p.bins[on_coord],
        ~on_coord,
        on_coord,
        p.coord_ids,
        v,
        p.denominators,
    )


def loss_of_rows(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bins: Tensor,
    text: Tensor,
    coord: Tensor,
    ids: Tensor,
    v: VariantConfig,
    n: Tensor,
) -> Tensor:
    logits = (hidden @ weight.T).float()
    full = logits[coord]
    terms = {
        "text_ce": reference.token_ce(logits[text], targets[text]).sum(),
        **reference.coordinate_sums(full, full[:, ids], targets[coord], bins, v),
    }
    return total_loss(terms, n, v).float()


COMPILED = torch.compile(loss_of_rows, dynamic=False)


def of_compiled_rows(p: Problem, v: VariantConfig) -> Tensor:
    on_coord = p.bins >= 0
    text, coord = (~on_coord).nonzero()[:, 0], on_coord.nonzero()[:, 0]
    return COMPILED(
        p.every[p.supervised],
        p.weight,
        p.targets,
        p.bins[on_coord],
        text,
        coord,
        p.coord_ids,
        v,
        p.denominators,
    )


def as_published(p: Problem, v: VariantConfig) -> Tensor:
    """Logits of every position; unsupervised ones are ignored by the cross-entropy."""
    logits = (p.every @ p.weight.T).float()  # [S, V]
    joint = v.token_groups is TokenGroups.joint
    labels = torch.full((len(logits),), -100, device=logits.device)
    labels[p.supervised] = p.targets if joint else torch.where(p.bins >= 0, -100, p.targets)
    base = F.cross_entropy(logits, labels, ignore_index=-100)
    if joint:
        return base
    on_coord = p.bins >= 0
    full = logits[p.supervised[on_coord]]
    sums = reference.coordinate_sums(
        full, full[:, p.coord_ids], p.targets[on_coord], p.bins[on_coord], v
    )
    return base + sum(getattr(v, term) * value for term, value in sums.items()) / on_coord.sum()


def torch_linear(options: Any) -> Callable[[Problem, VariantConfig], Tensor]:
    def loss(p: Problem, _: VariantConfig) -> Tensor:
        return F.linear_cross_entropy(p.every[p.supervised], p.weight, p.targets, options=options)

    return loss


def liger(p: Problem, _: VariantConfig) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(p.weight, p.every[p.supervised], p.targets)


def forward_backward(way: Callable, p: Problem, v: VariantConfig) -> float:
    """Seconds."""
    p.every.grad = p.weight.grad = None
    return seconds(p, lambda: way(p, v).backward())


def seconds(p: Problem, work: Callable[[], object]) -> float:
    """Seconds; on a CPU those of the process, summed over its threads."""
    clock = time.perf_counter if p.every.is_cuda else time.process_time
    synchronise(p)
    started = clock()
    work()
    synchronise(p)
    return clock() - started


def synchronise(p: Problem) -> None:
    if p.every.is_cuda:
        torch.cuda.synchronize()


def matrix_products(p: Problem) -> float:
    """Seconds for the three products alone, all rows at once: a lower bound for every way."""
    hidden, weight = p.every.detach()[p.supervised], p.weight.detach()
    logits = products.buffer(len(hidden), len(weight), hidden.device, hidden.dtype).to(hidden.dtype)

    def three_products() -> None:
        products.product(hidden, weight, logits)
        for some in products.whole_tiles(len(weight), weight.dtype):
            torch.mm(logits[:, some], weight[some])
            torch.mm(logits[:, some].T, hidden)

    return seconds(p, three_products)


def peak_mb(way: Callable, p: Problem, v: VariantConfig) -> float:
    """Beyond what is held before, gradients included. Linux on a CPU."""
    p.every.grad = p.weight.grad = None
    if p.every.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(p, v).backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not serve unseen
    Path("/proc/self/clear_refs").write_text("5")
    before_kb = status_kb("VmRSS")
    way(p, v).backward()
    return (status_kb("VmHWM") - before_kb) / 1024


def status_kb(key: str) -> int:
    return next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(key)
    )


def gradients(way: Callable, p: Problem, v: VariantConfig) -> list[Tensor]:
    p.every.grad = p.weight.grad = None
    way(p, v).backward()
    return [x.grad.double() for x in (p.every, p.weight)]


def error(way: Callable, p: Problem, v: VariantConfig, exact: list[Tensor]) -> float:
    """The larger of the relative errors (norms) of the two gradients."""
    return max(
        float((a - b).norm() / b.norm()) for a, b in zip(gradients(way, p, v), exact, strict=True)
    )


def ways_of(letter: str, p: Problem) -> dict[str, Callable]:
    found = {
        "fused": of_fused,
        PUBLISHED: as_published,
        ROWS: of_rows,
        "the same, torch.compile": of_compiled_rows,
    }
    if letter == "B" and hasattr(F, "linear_cross_entropy"):
        found["torch linear_cross_entropy, full logits"] = torch_linear(None)
        found["… chunked, default options"] = torch_linear(torch.nn.LinearCrossEntropyOptions())

        def seconds_chunked_by(rows: int) -> float:
            return forward_backward(torch_linear(chunked(rows)), p, None)  # type: ignore[arg-type]

        best = min(CHUNKS, key=seconds_chunked_by)
        tried = f"fastest of {CHUNKS[0]} … {CHUNKS[-1]}"
        found[f"… chunked by {best} rows ({tried})"] = torch_linear(chunked(best))
    if letter == "B" and liger_runs_on(p.every.device.type):
        found["Liger fused linear cross-entropy"] = liger
    return found


def liger_runs_on(device: str) -> bool:
    return device != "cpu" and importlib.util.find_spec("liger_kernel") is not None


def chunked(rows: int) -> Any:
    return torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)


@dataclass
class Measured:
    seconds: list[float]
    mb: float
    error: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def measure(p: Problem, rounds: int) -> tuple[dict[tuple[str, str], Measured], float]:
    """{(variant letter, way): …} and the seconds of the bare products."""
    variants = {letter: compose([f"variant={name}"]).variant for letter, name in VARIANTS.items()}
    found: dict[tuple[str, str], Measured] = {}
    ways = {letter: ways_of(letter, p) for letter in variants}
    for letter, v in variants.items():
        exact = gradients(of_rows_exact, p.to(torch.float64), v)
        for name, way in ways[letter].items():
            forward_backward(way, p, v)  # warm up, compile
            found[letter, name] = Measured([], peak_mb(way, p, v), error(way, p, v, exact))
        del exact
    products = []
    for _ in range(rounds):
        products.append(matrix_products(p))
        for (letter, name), one in found.items():
            one.seconds.append(forward_backward(ways[letter][name], p, variants[letter]))
    return found, statistics.median(products)


def of_rows_exact(p: Problem, v: VariantConfig) -> Tensor:
    """The reference in float64."""
    asked = (p.targets, p.bins, p.coord_ids, v, p.denominators)
    return reference.objective(p.every[p.supervised], p.weight, *asked).loss


def speed_table(found: dict[tuple[str, str], Measured], products_s: float) -> str:
    rows = []
    for (letter, name), one in found.items():
        own = found[letter, "fused"]
        rows.append(
            [
                f"{letter} {VARIANTS[letter]}",
                name,
                f"{one.median_s / own.median_s:.2f}",
                f"{one.mb / own.mb:.1f}",
                f"{one.mb:,.0f}",
                f"{100 * products_s / one.median_s:.0f} %",
                f"{one.error:.1e}",
            ]
        )
    return table(
        "variant | way | time | peak memory | MB | of the products' rate | error of gradients", rows
    )


def shares(found: dict[tuple[str, str], Measured]) -> str:
    """The share of the speed-up that comes from skipping unsupervised positions."""
    lines = []
    for letter, name in VARIANTS.items():
        own, every, rows = (found[letter, way].median_s for way in ("fused", PUBLISHED, ROWS))
        share = math.log(every / rows) / math.log(every / own)
        lines.append(
            f"- {name}: {every / own:.1f} × as fast as the published form; "
            f"{100 * share:.0f} % of that (in logarithms) is "
            f"skipping unsupervised rows, the rest ({rows / own:.2f} ×) is the pass itself"
        )
    return "\n".join(lines)


def flat_table(d: int, vocabulary: int, dtype: torch.dtype, device: str) -> str:
    v = compose([f"variant={VARIANTS['A']}"]).variant
    rows = []
    for n in FLAT_ROWS:
        p = make_problem(d, vocabulary, n, n, dtype, device)
        forward_backward(of_fused, p, v)
        rows.append(
            [f"{n:,}", f"{peak_mb(of_fused, p, v):,.0f}", f"{n * vocabulary * 4 / 2**20:,.0f}"]
        )
    return table("rows N | fused, peak MB | one [N, V] of logits in float32, MB", rows)


def drawing(found: dict[tuple[str, str], Measured]) -> str:
    """Bars on a logarithmic axis: time and peak memory as ratios to the fused objective."""
    width, left, line = 860.0, 380.0, 20.0
    highest = max(
        max(m.median_s / found[k[0], "fused"].median_s, m.mb / found[k[0], "fused"].mb)
        for k, m in found.items()
    )
    half = (width - left - 100) / 2
    parts = [
        text(left, 18, "time (logarithmic)", bold=True),
        text(left + half + 60, 18, "peak memory (logarithmic)", bold=True),
    ]
    y = 30.0
    for (letter, name), one in found.items():
        own = found[letter, "fused"]
        if name == "fused":
            y += 10
        parts.append(text(left - 8, y + 13, f"{letter}  {name}", "end", 11.5, bold=name == "fused"))
        for x, ratio in ((left, one.median_s / own.median_s), (left + half + 60, one.mb / own.mb)):
            length = half * max(math.log(max(ratio, 1.0)) / math.log(highest), 0.0) + 2
            parts += [
                box(x, y + 3, length, line - 7, "#2563a8" if name == "fused" else "#9aa5b1"),
                text(x + length + 5, y + 13, f"{ratio:.2f}", size=11),
            ]
        y += line
    return picture(
        width, y + 12, "Time and peak memory of each way, as ratios to the fused objective", parts
    )


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=152_670)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--positions", type=int, default=1536)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="into docs/performance.md and docs/objective.svg"
    )
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU on this machine")
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*linear_cross_entropy.*")
    shape = (args.hidden, args.vocabulary, args.rows, args.positions)
    found, products_s = measure(
        make_problem(*shape, getattr(torch, args.dtype), args.device), args.rounds
    )
    if not liger_runs_on(args.device):
        print("Liger's kernel needs a GPU and the package liger_kernel: left out", flush=True)
    if not hasattr(F, "linear_cross_entropy"):
        print(f"torch {torch.__version__} has no linear_cross_entropy: left out", flush=True)
    pieces = {"speed": speed_table(found, products_s), "shares": shares(found)}
    pieces["flat"] = flat_table(
        args.hidden, args.vocabulary, getattr(torch, args.dtype), args.device
    )
    print(
        f"three products alone: {products_s:.3f} s; fused A: {found['A', 'fused'].median_s:.3f} s"
    )
    for name, piece in pieces.items():
        print(piece, end="\n\n", flush=True)
        if args.write:
            write_between(PAGE, name, piece)
    if args.write:
        (PAGE.parent / "objective.svg").write_text(drawing(found))


if __name__ == "__main__":
    main()
