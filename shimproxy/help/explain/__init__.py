"""What a name in the log or a reply means: texts beside the catalogue, and an example played as it is explained.

`stage` holds a session in memory, and `transcript` plays a written dialogue on it. `texts` reads what is said of each
name from `shimproxy/docs/explain`, `names` lists the names, and `page` puts both on paper. `command` is what
`shimproxy explain` runs.

The command line imports all of this only when it explains: no mail passes through here.
"""
