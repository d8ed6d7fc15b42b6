nft delete table inet shimproxy
