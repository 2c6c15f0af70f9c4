"""``python -m gradexplain``."""

import sys

if __name__ == "__main__":
    # Python puts the working directory first, for a module that is run from there.  This one may be,
    # but what it imports, a torch.py say, is not to be.
    if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]

    from gradexplain.cli import main

    sys.exit(main())
