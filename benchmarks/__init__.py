"""Speed and memory of the suite, compared with plain loops."""
