"""``python -m mneme``."""

from mneme.cli import main

if __name__ == "__main__":
    main()
