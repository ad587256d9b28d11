"""The models that conf/model/ shows: TF1 graph code and its training, as a team would have it before it knew exportkit.

Nothing in here imports exportkit. Each model trains in seconds with ``python -m exportkit.examples.<name>``.
"""
