"""Run `python -m sdlms`."""

from sdlms.cli import main

main()
