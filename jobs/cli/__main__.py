"""`python -m jobs.cli`: the command where nothing is installed, e.g. inside a submitted job."""

from jobs.cli import main

main()
