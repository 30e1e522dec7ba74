"""``python -m mmlib.worlds.pets``: draw a world into a folder."""

from mmlib.worlds.pets.command import main

main()
