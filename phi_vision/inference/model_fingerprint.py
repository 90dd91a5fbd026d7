"""Whether a model is still the one that it was: for those who keep answers to go on with later."""

from pathlib import Path

from phi_vision.model.checkpoint import adapter_base, resolve


def identify(words: str) -> list[str]:
    """Tell one model from another in the same place: names, sizes and times of its files.

    Input:  "runs/coats"
    Output: ["runs/coats", "runs/coats/model/config.json 2711 1763683200000000000", ...]

    Args:
        words: As `load_predictor` takes them; of a server there are only these.
    """
    place = Path(words)
    if not place.is_file():
        try:
            place = Path(resolve(words))
        except ValueError:  # a server's address
            return [words]
    # A model's files lie side by side; folders in it may be those that are just being written.
    files = [place] if place.is_file() else sorted(place.glob("*"))
    facts = ((file, file.stat()) for file in files if file.is_file())
    told = [words, *(f"{file} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)]
    base = None if place.is_file() else adapter_base(str(place))
    return told if base is None else [*told, *identify(base)]
