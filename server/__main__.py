"""`python -m server` is `understudy`."""

from server.cli.main import main

if __name__ == "__main__":
    main()
