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


def check_complete(choose, seed):
    """A strength that has not been run with every seed is not chosen, however good."""
    records = [r for r in table(seed) if not (r["setting"]["strength"] == 0.3 and r["seed"] == 1)]
    best = [{**r, "metric_val": 2.0} if r["setting"]["strength"] == 0.3 else r for r in records]
    assert max(r["metric_val"] for r in choose(best, ["strength"])) < 2.0
