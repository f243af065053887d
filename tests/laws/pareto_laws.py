"""The law of the Pareto front, against the definition: nobody kept is beaten, nobody left out is unbeaten."""


def check_front(pareto, points, x="bytes", y="metric_val", sign=1):
    """``pareto(points, x, y)`` is the set of points that no other point beats; of equal points the first; cheapest first."""
    usable = [p for p in points if p.get(x) is not None and p.get(y) is not None]

    def beats(q, p):
        if (q[x], q[y]) == (p[x], p[y]):
            return usable.index(q) < usable.index(p)
        return q[x] <= p[x] and sign * q[y] >= sign * p[y]

    wanted = [p for p in usable if not any(beats(q, p) for q in usable if q is not p)]
    assert list(pareto(points, x, y)) == sorted(wanted, key=lambda p: p[x])
