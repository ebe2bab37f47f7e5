"""Tables and pages of measured figures; pure: never trains, never measures."""

from layerticket.report.architectures import architectures_page
from layerticket.report.markdown import comparison_page, markdown
from layerticket.report.page.write import study_page, write_report
from layerticket.report.robustness import table5_table
from layerticket.report.table1 import lottery_page, lottery_rows
from layerticket.report.tables import blocks_table, comparison_table, table_text

__all__ = [
    "architectures_page",
    "blocks_table",
    "comparison_page",
    "comparison_table",
    "lottery_page",
    "lottery_rows",
    "markdown",
    "study_page",
    "table5_table",
    "table_text",
    "write_report",
]
