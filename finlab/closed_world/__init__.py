"""The fictional bilingual market of the smoke run.

`files/` has its documents, dialogues, preference pairs and exams. The data cards
`data_cards/cw_*.md` read them like any other data, so no other code imports this package. The
modules of this package are the generator of these files:

    python -m finlab.closed_world.generate finlab/closed_world/files
"""
