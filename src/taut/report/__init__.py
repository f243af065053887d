"""JSON lines of measured points, as one self-contained HTML page or as a static picture. Imports no torch."""

from taut.report.page import report
from taut.report.static import static_plot

__all__ = ["report", "static_plot"]
