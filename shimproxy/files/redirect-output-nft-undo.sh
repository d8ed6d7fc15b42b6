nft delete table inet shimproxy_output
