from mooring_api.cli import main

main()
