"""Backbone, preprocessing, heads, strategies, evaluation, export: arrays in, values out.

Nothing here knows HTTP, a database, a process of ours or the environment.
"""
