"""The fictional bilingual market of the smoke run.

`files/` holds its documents, dialogues, preference pairs and exams. The data cards
`data_cards/cw_*.md` read them like any other data, so nothing else imports this room. The modules
beside the files are the generator that wrote them:

    python -m finlab.closed_world.generate finlab/closed_world/files
"""
