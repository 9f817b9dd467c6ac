"""`python -m runner` is `bulkrender`."""

from runner.cli import main

if __name__ == "__main__":
    main()
