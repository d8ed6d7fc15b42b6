for family in -4 -6; do
    for each in lan wan; do
        ip $family rule add pref 100 fwmark 1 iif $each lookup 100
    done
    ip $family route add local default dev lo table 100
done
