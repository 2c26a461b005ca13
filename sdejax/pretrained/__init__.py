"""Other people's weights: each file knows one layout, and reads it into a `Model`."""
