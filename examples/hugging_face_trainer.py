"""Train a ticket of a small language model with Hugging Face's Trainer.

``python examples/hugging_face_trainer.py``
"""

import tempfile
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import layerticket as lt

LENGTH = 32


def windows(text: bytes, count: int) -> list[dict[str, torch.Tensor]]:
    """Draw examples of LENGTH bytes from a text; each byte is a token."""
    starts = torch.randint(
        0, len(text) - LENGTH, (count,), generator=torch.Generator().manual_seed(0)
    )
    ids = [torch.tensor(list(text[start : start + LENGTH])) for start in starts.tolist()]
    return [{"input_ids": row, "labels": row} for row in ids]


class Losses(TrainerCallback):
    """Stores the losses that the trainer logs."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args, state, control, logs=None, **_) -> None:
        """Store the loss."""
        if logs and "loss" in logs:
            self.values.append(float(logs["loss"]))


def network() -> LlamaForCausalLM:
    """Build the dense network."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def main(folder: Path, steps: int = 20) -> list[float]:
    """Find a ticket in a small Llama, train it on the text of this file, load it again."""
    set_seed(0)
    data = windows(Path(__file__).read_bytes(), 256)
    dense = network()
    batch = {key: torch.stack([row[key] for row in data[:16]]) for key in data[0]}
    ticket = lt.find_ticket(dense, batch, criterion="snip", budget=lt.Budget(remove=2))
    ticket.save(folder / "ticket")
    losses = Losses()
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=1,
        save_steps=steps,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = ticket.apply(dense)
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[losses]).train()

    saved = folder / "run" / f"checkpoint-{steps}"
    expected = model.eval()(batch["input_ids"]).logits
    # The ticket is a network of the same class, with four layers.
    again = LlamaForCausalLM.from_pretrained(saved)
    assert again.config.num_hidden_layers == 4
    assert torch.equal(again.eval()(batch["input_ids"]).logits, expected)
    # The same with the ticket's folder.
    alone = lt.load(folder / "ticket", network(), checkpoint=saved / "model.safetensors")
    assert torch.equal(alone.eval()(batch["input_ids"]).logits, expected)
    return losses.values


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = main(Path(folder))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; loaded again with equal outputs")
