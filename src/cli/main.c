/* vireo: the command for people. What it does is in verbs.c and a file for each verb. */
#include "base/log.h"
#include "cli/cli.h"

int main(int argc, char **argv)
{
	log_init("vireo", LOG_INFO);
	return cli_main(argc, argv);
}
