"""Tables of measured figures; pure: never trains, never measures."""

from layerticket.report.tables import blocks_table, comparison_table, markdown, table_text

__all__ = ["blocks_table", "comparison_table", "markdown", "table_text"]
