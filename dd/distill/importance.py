"""How the weights of IADD can learn, by name; tables need it without torch."""

RATES = {"raw": "lr_weights", "normalised": "lr_softmax", "layer": "lr_layer"}
"""The setting that says how fast the weights learn, for each way of learning them."""
