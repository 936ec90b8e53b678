"""The program `bastion`, and `python -m bastion`."""

from bastion.cli import main

if __name__ == "__main__":
    main()
