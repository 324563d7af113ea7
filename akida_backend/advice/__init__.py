# SPDX-License-Identifier: Apache-2.0
"""What would have to change for more of a model to run on a device, each proposal checked."""
