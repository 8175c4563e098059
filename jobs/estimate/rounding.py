"""Two digits: more would promise what no calculation keeps."""


def rounded(value: float) -> float:
    """Example: 157.2 -> 160.0, 0.01234 -> 0.012; `:g` writes it without an exponent."""
    return float(f"{value:.2g}")
