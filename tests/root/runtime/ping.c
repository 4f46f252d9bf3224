/* One ICMP echo to 127.0.0.1 over a datagram socket (icmp(7)), which needs no CAP_NET_RAW. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int echo(int family, int protocol, const struct sockaddr *to, socklen_t length, unsigned char type)
{
    unsigned char packet[64] = {type}, reply[256];
    struct timeval patience = {.tv_sec = 20};
    int fd = socket(family, SOCK_DGRAM, protocol);

    if (fd < 0) {
        perror("socket");
        return 1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (sendto(fd, packet, sizeof packet, 0, to, length) < 0 || recv(fd, reply, sizeof reply, 0) < 1) {
        perror("echo");
        return 1;
    }
    return 0;
}

int main(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);

    if (echo(AF_INET, IPPROTO_ICMP, (struct sockaddr *)&to, sizeof to, 8))
        return 1;
    printf("%d alive, raw sockets %s\n", (int)getuid(), raw < 0 ? "closed" : "open");
    return 0;
}
