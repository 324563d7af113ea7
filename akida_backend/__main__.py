# SPDX-License-Identifier: Apache-2.0
"""``python -m akida_backend`` is the command ``akida-backend``."""

import sys

from akida_backend.cli import main

if __name__ == "__main__":
    sys.exit(main())
