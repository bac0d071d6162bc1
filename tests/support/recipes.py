"""Recipes that a test has changed."""

from dd.config import recipes


def forget_recipes() -> None:
    """Read the file of recipes anew when they are needed next."""
    for kept in (recipes.load_recipes, recipes._names, recipes._of_plugin, recipes._recipe):
        kept.cache_clear()
