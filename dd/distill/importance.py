"""The ways to learn the importance weights of IADD. Tables import this module without torch."""

RATES = {"raw": "lr_weights", "normalised": "lr_softmax", "layer": "lr_layer"}
"""For each way, the name of the setting that is the learning rate of the weights."""
