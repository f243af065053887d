"""What a network costs: parameters, multiply-accumulates, bytes, seconds; per layer and in total."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Cost:
    """The cost of one weight: parameters the module holds, and MACs each time the weight is used.

    Example:
        >>> Cost(parameters=300 * 784, macs=300 * 784)
        Cost(parameters=235200, macs=235200)
    """

    parameters: int
    macs: float


@dataclass(frozen=True)
class Row:
    """One tensor of a ledger.

    ``parameters``: elements the module holds (dense count), ``nonzeros``: those that are not zero, ``macs``: multiply-adds for
    one input, ``bytes``: its record in the file, ``what``: what was done to it, ``why``: why it was left alone.
    """

    name: str
    parameters: int
    nonzeros: int
    macs: float = 0.0
    bytes: int = 0
    what: str = "dense"
    why: str = ""


@dataclass(frozen=True)
class Ledger:
    """The cost of a network, measured on what ships.

    ``bytes`` is the length of the whole file (so more than the sum of the rows), ``seconds`` the median measured latency of
    one batch, or ``None`` where it was not measured.
    """

    rows: tuple[Row, ...] = ()
    bytes: int = 0
    seconds: float | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def nonzeros(self) -> int:
        return sum(row.nonzeros for row in self.rows)

    @property
    def macs(self) -> float:
        return sum(row.macs for row in self.rows)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def totals(self) -> dict[str, float]:
        """``{"params": …, "nonzeros": …, "macs": …, "bytes": …}``, the keys of a record.

        Example:
            >>> Ledger((Row("fc", 6, 4, 6.0, 11),), bytes=40).totals()
            {'params': 6, 'nonzeros': 4, 'macs': 6.0, 'bytes': 40}
        """
        return {"params": self.parameters, "nonzeros": self.nonzeros, "macs": self.macs, "bytes": self.bytes}

    def as_dict(self) -> dict:
        """Plain data for JSON: the totals and every row."""
        return {**self.totals(), "seconds": self.seconds, "rows": [asdict(row) for row in self.rows]}
