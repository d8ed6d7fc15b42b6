"""`python -m shimproxy` is `shimproxy`."""

from shimproxy.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
