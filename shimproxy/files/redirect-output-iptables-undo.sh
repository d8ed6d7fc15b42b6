for each in iptables ip6tables; do
    $each -t nat -D OUTPUT -p tcp --dport 25 -m owner ! --uid-owner 65532 -j REDIRECT --to-ports 23025
done
