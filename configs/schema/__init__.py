"""The config tree: `Run` is its root."""

from configs.schema.run import Run as Run
