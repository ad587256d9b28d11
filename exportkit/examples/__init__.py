"""The example models of conf/model/: TF1 graph code and its training, as a team would have it before it uses exportkit.

Nothing here imports exportkit. Each model trains in seconds with ``python -m exportkit.examples.<name>``.
"""
