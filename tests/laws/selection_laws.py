"""Laws of choosing settings by validation data."""

import random
from statistics import fmean


def table(seed, strengths=(0.1, 0.3, 1.0), seeds=3, levels=(2, 10)):
    """Records of two ways of training at some strengths, compressed to some levels, with random metrics, in random order."""
    draw = random.Random(seed)
    made = [
        {
            "study": "s", "network": "n", "dataset": "d", "training": f"{way} {strength:g}", "method": "prune",
            "setting": {"strength": strength, "level": level}, "seed": run,
            "metric_val": draw.random(), "metric_test": draw.random(), "bytes": 100 // level,
        }
        for way in ("l1", "nuclear") for strength in strengths for level in levels for run in range(seeds)
    ]  # fmt: skip
    draw.shuffle(made)
    return made


def check_best(choose, seed):
    """What is kept of a way and a level is one strength's runs, all of them, and no other's mean on validation data is higher."""
    records = table(seed)
    chosen = choose(records, ["strength"])
    for way in ("l1", "nuclear"):
        for level in (2, 10):
            kept = [r for r in chosen if r["training"] == way and r["setting"] == {"level": level}]
            tried = {}
            for record in records:
                if record["training"].startswith(way) and record["setting"]["level"] == level:
                    tried.setdefault(record["setting"]["strength"], []).append(record["metric_val"])
            assert sorted(r["metric_val"] for r in kept) == sorted(max(tried.values(), key=fmean))


def check_blind(choose, seed):
    """Test data has no say: other test metrics choose the same runs."""
    records = table(seed)
    draw = random.Random(seed + 1)
    other = [{**record, "metric_test": draw.random()} for record in records]
    values = [[r["metric_val"] for r in choose(which, ["strength"])] for which in (records, other)]
    assert values[0] == values[1]


def check_shared(choose, seed):
    """Strengths are compared on the seeds that all were run with; all runs of the chosen one are kept."""
    strengths = (0.1, 0.3, 1.0)
    runs = {strength: {0, 1, 2} - {missing} for strength, missing in zip(strengths, (None, 1, 2), strict=True)}
    records = [r for r in table(seed) if r["seed"] in runs[r["setting"]["strength"]]]
    # runs with seeds that others lack are better, or worse, than all there is
    moved = [{**r, "metric_val": r["metric_val"] + (0 if r["seed"] == 0 else 5 * (-1) ** seed)} for r in records]
    chosen = choose(moved, ["strength"])
    for way in ("l1", "nuclear"):
        for level in (2, 10):
            here = [r for r in moved if r["training"].startswith(way) and r["setting"]["level"] == level]
            first = max((r for r in here if r["seed"] == 0), key=lambda r: r["metric_val"])
            wanted = [r["metric_val"] for r in here if r["setting"]["strength"] == first["setting"]["strength"]]
            kept = [r["metric_val"] for r in chosen if r["training"] == way and r["setting"] == {"level": level}]
            assert sorted(kept) == sorted(wanted)


def check_apart(choose, seed):
    """Of strengths that no seed has in common, those with the most seeds are compared."""
    records = [r for r in table(seed) if (r["seed"] == 0) == (r["setting"]["strength"] == 0.3)]
    best = [{**r, "metric_val": 2.0} if r["setting"]["strength"] == 0.3 else r for r in records]
    chosen = choose(best, ["strength"])
    assert len(chosen) == 8 and max(r["metric_val"] for r in chosen) < 2.0
