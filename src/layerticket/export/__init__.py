"""Takes a trained ticket to where it runs, and proves that it arrived: every file is read back."""

from layerticket.export.exporting import FORMATS, Exported, export

__all__ = ["FORMATS", "Exported", "export"]
