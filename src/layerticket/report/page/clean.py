"""Texts that every file format takes. Enters: JSON values. Leaves: them without control signs."""

from typing import Any

__all__ = ["clean"]


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    r"""Replace control characters and lone surrogates in every text of a JSON value.

    Args:
        value: A JSON value; it is not modified.

    Returns:
        The value anew.

    Example:
        >>> clean({"error": "a\x00b"})
        {'error': 'a\ufffdb'}
    """
    if isinstance(value, str):
        return "".join(sign if sign in "\n\t" or _plain(sign) else "\ufffd" for sign in value)
    if isinstance(value, dict):
        return {clean(key): clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    return value


def _plain(sign: str) -> bool:
    code = ord(sign)
    return (
        code >= 32
        and not 0x7F <= code <= 0x9F
        and not 0xD800 <= code <= 0xDFFF
        and (code & 0xFFFE != 0xFFFE)
    )
