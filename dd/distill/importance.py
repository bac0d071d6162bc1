"""How the weights of IADD can learn, by name; tables need it without torch."""

RATES = {"raw": "lr_weights", "normalised": "lr_softmax", "layer": "lr_layer"}
"""For each way of learning the weights, the setting that is their learning rate."""
