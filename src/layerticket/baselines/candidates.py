"""Whatever a folder holds that can be trained in place of the dense network."""

from pathlib import Path

from layerticket.baselines.filters import FilterTicket
from layerticket.baselines.weights import WeightTicket
from layerticket.errors import LayerticketError, unknown_name
from layerticket.files import read_json
from layerticket.ticket.ticket import RECORD_records as RECORD
from layerticket.ticket.ticket import Rival, Ticket

Candidate = Ticket | Rival
KINDS: dict[str, type[Rival]] = {rival.kind: rival for rival in (FilterTicket, WeightTicket)}


def load_candidate(folder: str | Path) -> Candidate:
    """Read a ticket of layers, or a rival of any kind, from its folder.

    Raises:
        LayerticketError: If there is none, or it is damaged.
    """
    folder = Path(folder)
    if (folder / "ticket.json").exists():
        return Ticket.load(folder)
    if not (folder / RECORD).exists():
        raise LayerticketError(
            f"{folder} is not a ticket: it holds neither ticket.json nor {RECORD}. "
            "Write one: layerticket find."
        )
    kind = str(read_json(folder / RECORD).get("kind"))
    if kind not in KINDS:
        raise unknown_name(f"kind of rival in {folder}:", kind, KINDS)
    return KINDS[kind].load(folder)
