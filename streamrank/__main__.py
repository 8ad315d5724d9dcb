"""`python -m streamrank`."""

from streamrank.cli import main

if __name__ == "__main__":
    main()
