"""Dataset distillation, reproduced: MetaDD, Model Pool and IADD on one set of seams."""

__version__ = "0.3.0"
